#include "op_case.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "rows/half.h"

namespace pepnet::test {

namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of float32, relative

// One of 65536 normal numbers: computing a logarithm for each took longer than the kernels under test.
float normal(std::mt19937& random) {
  static const std::vector<float> numbers = [] {
    std::mt19937 source(1);
    std::normal_distribution<float> distribution;
    std::vector<float> drawn(std::size_t{1} << 16);
    for (float& one : drawn) one = distribution(source);
    return drawn;
  }();
  return numbers[random() >> 16 & 0xFFFFU];
}

double value_at(const PackedMatrix& w, std::size_t k, std::size_t n) {
  const std::size_t step = step_of(w.precision);
  const char* const line = static_cast<const char*>(w.data) + n / kPanel * panel_bytes(w) + k / step * 64;
  const std::size_t i = n % kPanel * step + k % step;
  if (w.precision == Precision::int8) {
    return static_cast<double>(static_cast<signed char>(line[i])) * static_cast<double>(w.scale[n]);
  }
  if (w.precision == Precision::bf16) {
    std::uint16_t bits;
    std::memcpy(&bits, line + i * 2, 2);
    return static_cast<double>(float_from_bfloat16(bits));
  }
  float x;
  std::memcpy(&x, line + i * 4, 4);
  return static_cast<double>(x);
}

double activation_at(const Ops& ops, const Factors& f, std::size_t r, std::size_t k) {
  const char* const row = f.bytes.data() + r * f.stride;
  if (ops.activation == Activation::u8) {
    return static_cast<double>(f.scale[r]) * (static_cast<unsigned char>(row[k]) - f.zero[r]);
  }
  if (ops.activation == Activation::bf16) {
    std::uint16_t bits;
    std::memcpy(&bits, row + k * 2, 2);
    return static_cast<double>(float_from_bfloat16(bits));
  }
  float x;
  std::memcpy(&x, row + k * 4, 4);
  return static_cast<double>(x);
}

struct Value {
  double x, tol;
};

// a·w + b + init, and how far float32 arithmetic may be off: k roundings of partial sums, each no larger than
// the sum of magnitudes. Integers are summed exactly; what is left are a few roundings of the result.
Value product_at(const Factors& f, Precision precision, std::size_t r, std::size_t n, double init,
                 std::size_t k_begin) {
  double sum = init;
  double size = std::fabs(init);
  for (std::size_t k = k_begin; k < f.in; ++k) {
    sum += f.a(r, k) * f.w(k, n);
    size += std::fabs(f.a(r, k) * f.w(k, n));
  }
  const double bias = static_cast<double>(f.bias[n]);
  const double roundings =
      precision == Precision::int8 ? 4 * std::fabs(sum) : static_cast<double>(f.in + 4) * size;
  return {sum + bias, kUnit * (roundings + 2 * (std::fabs(sum) + std::fabs(bias)))};
}

// Slope at most gamma / 4; the function itself within 4 roundings.
Value gate_of(Value v, double gamma) {
  const double gate = gamma / (1 + std::exp(-v.x));
  return {gate, gamma * v.tol / 4 + 8 * kUnit * gate};
}

Value relu_of(Value v) { return {v.x > 0 ? v.x : 0, v.tol}; }

Value function_of(Value v, network::Function function, double alpha, double slope) {
  const double y = activation_in_double(function, v.x, alpha, slope);
  return {y, kSteepest * v.tol + 16 * kUnit * (std::fabs(y) + 1e-3 * std::fabs(v.x))};
}

Value times(Value a, Value b) {
  const double x = a.x * b.x;
  return {x, std::fabs(a.x) * b.tol + std::fabs(b.x) * a.tol + a.tol * b.tol + 2 * kUnit * std::fabs(x)};
}

}  // namespace

double activation_in_double(network::Function function, double x, double alpha, double slope) {
  using enum network::Function;
  const auto below = [&](double y) { return x < 0 ? y : x; };
  switch (function) {
    case identity:
      return x;
    case relu:
      return below(0);
    case sigmoid:
      return 1 / (1 + std::exp(-x));
    case leaky_relu:
      return below(alpha * x);
    case prelu:
      return below(slope * x);
    case silu:
      return x / (1 + std::exp(-x));
    case tanh:
      return std::tanh(x);
    case gelu:
      return x * std::erfc(-x * std::sqrt(0.5)) / 2;
    case gelu_tanh: {
      const double u = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
      return x / (1 + std::exp(-2 * u));  // (1 + tanh u) / 2
    }
    case elu:
      return below(alpha * std::expm1(x));
    case selu:
      return 1.0507009873554805 * below(1.6732632423543772 * std::expm1(x));
    case hard_sigmoid:
      return std::fmin(1, std::fmax(0, x / 6 + 0.5));
    case hard_silu:
      return x * std::fmin(1, std::fmax(0, x / 6 + 0.5));
    case softplus:
      return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x)));
  }
  std::abort();
}

Memory::Memory(std::size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 64, bytes == 0 ? 1 : bytes) != 0) std::abort();
  std::memset(p, 0, bytes);
  data_.reset(static_cast<char*>(p));
}

Factors::Factors(const Ops& ops, std::size_t rows, std::size_t in_, std::size_t out_, std::mt19937& random)
    : in(in_),
      out(out_),
      x(rows * in_),
      weights(in_ * out_),
      bias(out_),
      packed_memory(packed_bytes({.name = "w", .in = in_, .out = out_}, ops.precision)),
      stride(round_up(in_, k_multiple(ops.precision)) * bytes_of(ops.activation)),
      bytes(rows * stride),
      scale(rows),
      zero(rows) {
  const float size = 1.0F / std::sqrt(static_cast<float>(in));
  for (float& v : weights) v = normal(random) * size;
  for (float& v : bias) v = normal(random);
  // Every third row has no negative value, which is another zero point in int8.
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = i / in % 3 == 2 ? std::fabs(normal(random)) : normal(random);
  packed = pack({.name = "w", .w = weights.data(), .stride = out, .bias = bias.data(), .in = in, .out = out},
                ops.precision, packed_memory.data());
  for (std::size_t r = 0; r < rows; ++r) {
    char* const to = bytes.data() + r * stride;
    if (ops.activation == Activation::u8) {
      ops.quantize(x.data() + r * in, in, reinterpret_cast<std::uint8_t*>(to), stride, &scale[r], &zero[r]);
    } else {
      ops.convert(x.data() + r * in, in, to, stride / bytes_of(ops.activation));
    }
  }
  left.resize(rows * in);
  right.resize(in * out);
  for (std::size_t i = 0; i < left.size(); ++i) left[i] = activation_at(ops, *this, i / in, i % in);
  for (std::size_t i = 0; i < right.size(); ++i) right[i] = value_at(packed, i / out, i % out);
}

OpResult run_case(const Ops& ops, const OpCase& c, unsigned seed, bool truth) {
  std::mt19937 random(seed);
  const Factors main(ops, c.rows, c.in, c.out, random);
  const bool gated = c.fused.factor == Factor::gated;
  const std::size_t gate_in = c.in % 50 + 7;
  const Factors gate(ops, gated ? c.rows : 0, gate_in, c.out, random);
  const std::size_t width = main.packed.panels * kPanel;
  const bool one_factor_row = c.rows % 2 == 1;
  std::vector<float> mul(one_factor_row ? c.out : c.rows * c.out);  // no padding
  for (float& v : mul) v = normal(random);
  std::vector<float> init(width);
  for (std::size_t n = 0; n < c.out; ++n) init[n] = normal(random);
  std::vector<float> plus(c.rows * c.out), slope(width);
  for (float& v : plus) v = normal(random);
  for (float& v : slope) v = normal(random) / 4;
  const float gamma = 2.0F, alpha = 0.25F;

  OpResult result;
  const std::size_t out_stride = width * (c.bf16_out ? 2 : 4);
  const Memory out(c.rows * out_stride);
  result.second.assign(c.second ? c.rows * width : 0, -1.0F);
  for (std::size_t rs = 0; rs < c.row_splits; ++rs) {
    for (std::size_t ps = 0; ps < c.panel_splits; ++ps) {
      const std::size_t row = c.rows * rs / c.row_splits;
      Product p;
      p.main = {main.activations(), &main.packed, c.init ? init.data() : nullptr, c.k_begin};
      p.main.a.data = main.bytes.data() + row * main.stride;
      p.main.a.scale += row;
      p.main.a.zero += row;
      p.rows = c.rows * (rs + 1) / c.row_splits - row;
      p.panel_begin = main.packed.panels * ps / c.panel_splits;
      p.panel_end = main.packed.panels * (ps + 1) / c.panel_splits;
      p.epilogue = c.fused.epilogue;
      p.factor = c.fused.factor;
      p.function = c.fused.function;
      p.alpha = alpha;
      p.slope = network::reads_slope(c.fused.function) ? slope.data() : nullptr;
      p.gamma = gamma;
      if (c.fused.plus) {
        p.plus = plus.data() + row * c.out;
        p.plus_stride = c.out;
      }
      if (gated) {
        p.gate = {gate.activations(), &gate.packed, nullptr, 0};
        p.gate.a.data = gate.bytes.data() + row * gate.stride;
        p.gate.a.scale += row;
        p.gate.a.zero += row;
      }
      if (c.fused.factor == Factor::rows) {
        p.mul_stride = one_factor_row ? 0 : c.out;
        p.mul = mul.data() + row * p.mul_stride;
      }
      p.out = out.data() + row * out_stride;
      p.out_stride = out_stride;
      p.out_bf16 = c.bf16_out;
      if (c.second) {
        p.out2 = result.second.data() + row * width;
        p.out2_stride = width;
      }
      ops.product(p);
    }
  }
  result.out.resize(c.rows * width);
  for (std::size_t i = 0; i < result.out.size(); ++i) {
    result.out[i] = c.bf16_out ? float_from_bfloat16(out.as<std::uint16_t>()[i]) : out.as<float>()[i];
  }
  for (std::size_t r = 0; truth && r < c.rows; ++r) {
    for (std::size_t n = 0; n < c.out; ++n) {
      Value v = product_at(main, ops.precision, r, n, c.init ? static_cast<double>(init[n]) : 0.0, c.k_begin);
      const Value factor{static_cast<double>(one_factor_row ? mul[n] : mul[r * c.out + n]), 0};
      const auto g = static_cast<double>(gamma);
      if (c.fused.epilogue == Epilogue::relu) v = relu_of(v);
      if (c.fused.epilogue == Epilogue::gate) v = gate_of(v, g);
      if (c.fused.epilogue == Epilogue::function)
        v = function_of(v, c.fused.function, static_cast<double>(alpha), static_cast<double>(slope[n]));
      if (c.fused.factor == Factor::rows) v = times(v, factor);
      if (gated) v = times(v, gate_of(product_at(gate, ops.precision, r, n, 0, 0), g));
      if (c.fused.plus) {
        const auto more = static_cast<double>(plus[r * c.out + n]);
        v = {v.x + more, v.tol + kUnit * (std::fabs(v.x) + std::fabs(more))};
      }
      result.want.push_back(v.x);
      result.tol.push_back(v.tol + (c.bf16_out ? 0x1p-8 * std::fabs(v.x) : 0) + 1e-37);
    }
  }
  return result;
}

}  // namespace pepnet::test
