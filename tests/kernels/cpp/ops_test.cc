// Every op of every table that runs here (ops), and of the tables with emulated tiles (tiles), against double
// arithmetic.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "amx_emulated.h"
#include "check.h"
#include "dense/dispatch.h"
#include "op_case.h"

namespace pepnet::test {
namespace {

using network::Function;

constexpr Fused kLinear{Epilogue::linear}, kRelu{Epilogue::relu}, kGate{Epilogue::gate};
constexpr Fused kReluGated{Epilogue::relu, Factor::gated};
// Those that are compiled for themselves; and the others, which a table leads to, each with every factor in
// turn.
constexpr Fused kEpilogues[] = {
    kLinear,
    kRelu,
    kGate,
    {Epilogue::gate, Factor::rows},
    {Epilogue::relu, Factor::rows},
    kReluGated,
    {Epilogue::linear, Factor::rows, Function::identity, true},
    {Epilogue::relu, Factor::none, Function::identity, true},
    {Epilogue::linear, Factor::gated, Function::identity},
    {Epilogue::function, Factor::none, Function::sigmoid},
    {Epilogue::function, Factor::rows, Function::leaky_relu},
    {Epilogue::function, Factor::gated, Function::prelu},
    {Epilogue::function, Factor::none, Function::prelu},
    {Epilogue::function, Factor::none, Function::silu},
    {Epilogue::function, Factor::rows, Function::tanh, true},
    {Epilogue::function, Factor::gated, Function::gelu},
    {Epilogue::function, Factor::none, Function::gelu_tanh, true},
    {Epilogue::function, Factor::rows, Function::elu},
    {Epilogue::function, Factor::gated, Function::selu, true},
    {Epilogue::function, Factor::none, Function::hard_sigmoid},
    {Epilogue::function, Factor::rows, Function::softplus},
    {Epilogue::function, Factor::none, Function::identity},
    {Epilogue::function, Factor::none, Function::relu},
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void check_case(const Ops& ops, const OpCase& c, unsigned seed, bool compare_split = true) {
  OpResult got = run_case(ops, c, seed);
  const std::size_t width = round_up(c.out, kPanel);
  for (std::size_t r = 0; r < c.rows; ++r) {
    for (std::size_t n = 0; n < width; ++n) {
      const auto value = static_cast<double>(got.out[r * width + n]);
      if (n >= c.out) {
        CHECK(value == 0.0);
      } else {
        CHECK(std::fabs(value - got.want[r * c.out + n]) <= got.tol[r * c.out + n]);
      }
    }
  }
  for (float& v : got.second)
    if (c.bf16_out) v = as_bf16(v);
  if (c.second) CHECK(same_bits(got.out, got.second));
  if (!compare_split) return;
  OpCase split = c;
  split.row_splits = c.rows > 3 ? 3 : 1;
  split.panel_splits = c.out > 2 * kPanel ? 2 : 1;
  if (split.row_splits + split.panel_splits > 2)
    CHECK(same_bits(got.out, run_case(ops, split, seed, false).out));
}

// Sanitizers look for other things than wrong sums: of the pairs of widths, every fifth is enough for them,
// in which all widths are.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kPairStep = 5;
#else
constexpr std::size_t kPairStep = 1;
#endif

// Every pair of widths with every epilogue, and over them every number of rows with every epilogue. A fifth
// of them is compared with the same product in parts: ten for each epilogue, six with the panels in two.
void products(const Ops& ops) {
  constexpr std::size_t kWidths[] = {1, 3, 17, 31, 40, 65, 100, 129};
  constexpr std::size_t kRows[] = {0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 64};
  unsigned seed = 0;
  const auto check_drawn = [&](OpCase c, bool compare_split) {
    const auto drawn = std::mt19937(++seed)();
    c.bf16_out = drawn >> 8 & 1;
    c.second = drawn >> 9 & 1;
    c.init = ops.precision != Precision::int8 && (drawn >> 10 & 1);
    if (c.init && c.in > k_multiple(ops.precision)) c.k_begin = k_multiple(ops.precision);
    check_case(ops, c, seed, compare_split);
  };
  for (std::size_t pair = 0; pair < 64; pair += kPairStep) {
    for (std::size_t e = 0; e < std::size(kEpilogues); ++e) {
      const std::size_t rows = kRows[(7 * pair + e) % std::size(kRows)];
      check_drawn({rows, kWidths[pair / 8], kWidths[pair % 8], kEpilogues[e]}, (pair + e) % 5 == 0);
    }
  }
  for (const Fused& epilogue : kEpilogues) check_drawn({255, 40, 65, epilogue}, true);
  check_case(ops, {33, 1216, 40, kReluGated}, ++seed);
  check_case(ops, {1000, 7, 17, kGate}, ++seed);
  std::printf("ops %s %s (%s): %u products\n", name_of(ops.isa), name_of(ops.precision), ops.how, seed);
}

// However rows and panels are shared out, the bits are the same.
void splits(const Ops& ops) {
  for (OpCase c : {OpCase{81, 65, 129, kReluGated}, OpCase{81, 1216, 70, kReluGated}}) {
    const std::vector<float> whole = run_case(ops, c, 2, false).out;
    for (const std::size_t rows : {81U, 41U, 17U, 6U, 3U, 2U}) {
      for (const std::size_t panels : {1U, 2U, 3U, 5U}) {
        c.row_splits = rows;
        c.panel_splits = panels;
        CHECK(same_bits(run_case(ops, c, 2, false).out, whole));
      }
    }
  }
}

// What `rank` does: sums over the first values of k, computed once, are where every row starts from.
void shared_part_of_k(const Ops& ops) {
  if (ops.precision == Precision::int8) return;
  std::mt19937 random(3);
  const Factors f(ops, 40, 193, 37, random);
  const std::size_t width = round_up(f.out, kPanel);
  std::vector<float> whole(40 * width), rest(40 * width), start(width);
  Product p;
  p.rows = 40;
  p.panel_end = f.packed.panels;
  p.out_stride = width * sizeof(float);
  p.main = {f.activations(), &f.packed, nullptr, 0};
  p.main.a.stride = 0;  // the first row, forty times
  p.epilogue = Epilogue::relu;
  p.out = whole.data();
  ops.product(p);
  for (const std::size_t shared : {32U, 128U, 192U}) {
    const MatrixSpec spec{.name = "w", .w = f.weights.data(), .stride = f.out, .in = shared, .out = f.out};
    const Memory memory(packed_bytes(spec, ops.precision));
    const PackedMatrix begin = pack(spec, ops.precision, memory.data());
    Product first = p;
    first.rows = 1;
    first.epilogue = Epilogue::linear;
    first.main.w = &begin;
    first.out = start.data();
    ops.product(first);
    p.main.init = start.data();
    p.main.k_begin = shared;
    p.out = rest.data();
    ops.product(p);
    CHECK(same_bits(rest, whole));
  }
}

// Weights are as near to those that were given as their format has them.
void packings(const Ops& ops) {
  std::mt19937 random(4);
  const Factors f(ops, 0, 20, 33, random);
  for (std::size_t n = 0; n < f.out; ++n) {
    float largest = 0;
    for (std::size_t k = 0; k < f.in; ++k) largest = std::max(largest, std::fabs(f.weights[k * f.out + n]));
    if (ops.precision == Precision::int8)
      CHECK(std::fabs(f.packed.scale[n] * 127 - largest) <= 1e-6F * largest);
    for (std::size_t k = 0; k < f.in; ++k) {
      const float given = f.weights[k * f.out + n];
      if (ops.precision == Precision::int8) {
        const double step = static_cast<double>(f.packed.scale[n]);
        CHECK(std::fabs(f.w(k, n) - static_cast<double>(given)) <= 0.50001 * step);
      } else {
        const float want = ops.precision == Precision::bf16 ? as_bf16(given) : given;
        CHECK(f.w(k, n) == static_cast<double>(want));
      }
    }
  }
}

// One row with a value that is not finite: its outputs are what IEEE 754 says, all others keep their bits,
// padding stays zero.
void bad_row_stays_alone(const Ops& ops, float value) {
  std::mt19937 random(7);
  for (const std::size_t rows : {2U, 17U, 40U}) {
    const std::size_t out = 37;
    const Factors f(ops, rows, 50, out, random);
    const std::size_t width = round_up(out, kPanel);
    std::vector<float> before(rows * width), after(rows * width);
    Product p;
    p.main = {f.activations(), &f.packed, nullptr, 0};
    p.rows = rows;
    p.panel_end = f.packed.panels;
    p.epilogue = Epilogue::relu;
    p.out = before.data();
    p.out_stride = width * sizeof(float);
    ops.product(p);
    const std::size_t bad = rows - 2;
    std::vector<float> scale = f.scale;
    p.main.a.scale = scale.data();
    if (ops.activation == Activation::u8) {
      scale[bad] = std::numeric_limits<float>::quiet_NaN();
    } else {
      char* const at = f.bytes.data() + bad * f.stride + 5 * bytes_of(ops.activation);
      std::memcpy(at, reinterpret_cast<const char*>(&value) + (ops.activation == Activation::bf16 ? 2 : 0),
                  bytes_of(ops.activation));
    }
    p.out = after.data();
    ops.product(p);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t n = 0; n < width; ++n) {
        const float x = after[r * width + n];
        if (n >= out) {
          CHECK(x == 0.0F);
        } else if (r == bad && (std::isnan(value) || ops.activation == Activation::u8)) {
          CHECK(std::isnan(x));
        } else if (r == bad) {
          CHECK(x == (f.w(5, n) * static_cast<double>(value) > 0 ? std::fabs(value) : 0.0F));
        } else {
          CHECK(std::memcmp(&x, &before[r * width + n], sizeof(x)) == 0);
        }
      }
    }
  }
}

// A call configures the tiles once, and once more a group for a remainder of rows; and gives them back.
void tiles_are_configured_once(const Ops& ops) {
  struct {
    std::size_t rows, out, configurations;
  } const cases[] = {{0, 40, 0},  {1, 40, 1},  {16, 200, 1}, {17, 40, 1},
                     {32, 90, 1}, {64, 90, 1}, {33, 90, 4}};
  for (const auto& c : cases) {
    std::mt19937 random(1);
    const Factors f(ops, c.rows, 40, c.out, random);
    const std::size_t width = round_up(c.out, kPanel);
    std::vector<float> out(c.rows * width);
    Product p;
    p.main = {f.activations(), &f.packed, nullptr, 0};
    p.rows = c.rows;
    p.panel_end = f.packed.panels;
    p.out = out.data();
    p.out_stride = width * sizeof(float);
    const TileCounts before = tile_counts();
    ops.product(p);
    const TileCounts after = tile_counts();
    CHECK(after.configurations - before.configurations == c.configurations);
    CHECK(after.releases - before.releases == (c.rows > 0 ? 1 : 0));
    CHECK(!after.configured);
  }
}

void check_table(const Ops& ops) {
  products(ops);
  splits(ops);
  shared_part_of_k(ops);
  packings(ops);
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()})
    bad_row_stays_alone(ops, value);
  check_row_ops(ops);
}

}  // namespace

void ops() {
  for (const Candidate& candidate : candidates()) {
    if (candidate.usable) {
      check_table(*candidate.ops);
    } else {
      std::printf("ops %s %s: left out, %s\n", name_of(candidate.isa), name_of(candidate.precision),
                  candidate.why.c_str());
    }
  }
  for (const Precision precision : kPrecisions) {
    const Choice choice = choose(precision);
    CHECK(choice.ops->precision == precision);
    std::printf("chosen %s: %s\n", name_of(precision), name_of(choice.ops->isa));
  }
}

void tiles() {
  for (const Ops* const table : {&kEmulatedBf16, &kEmulatedInt8}) {
    check_table(*table);
    tiles_are_configured_once(*table);
  }
}

}  // namespace pepnet::test
