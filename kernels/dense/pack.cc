#include "dense/pack.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "rows/half.h"

namespace pepnet {
namespace {

constexpr std::size_t kLine = 64;
// A sum of k products of a byte and a signed byte must fit int32.
constexpr std::size_t kMostInt8 = 0x7FFFFFFFU / (255U * 127U);

// Calls f(row of the source, k).
template <class F>
void each_row(const MatrixSpec& spec, F f) {
  const std::vector<RowRun> all{{0, spec.in, 0}};
  for (const RowRun& run : spec.runs.empty() ? all : spec.runs) {
    for (std::size_t i = 0; i < run.rows; ++i) {
      f(spec.w + (run.source + i) * spec.stride, run.k + i);
    }
  }
}

// Writes `value(weight, column)` for every weight to where it lies.
template <class T, class Value>
void pack_values(const MatrixSpec& spec, const PackedMatrix& matrix, void* to, Value value) {
  const std::size_t step = step_of(matrix.precision);
  each_row(spec, [&](const float* row, std::size_t k) {
    T* const first = static_cast<T*>(to) + k / step * kPanel * step + k % step;
    for (std::size_t j = 0; j < spec.out; ++j)
      first[j / kPanel * kPanel * matrix.in + j % kPanel * step] = value(row[j], j);
  });
}

void pack_bf16(const MatrixSpec& spec, const PackedMatrix& matrix, void* to) {
  pack_values<std::uint16_t>(spec, matrix, to, [&](float weight, std::size_t) {
    const std::uint16_t value = bfloat16_from_float(weight);
    if ((value & 0x7F80U) != 0x7F80U) return value;
    throw std::invalid_argument(spec.name + ": expected values that bf16 can hold, got " +
                                std::to_string(weight));
  });
}

void pack_int8(const MatrixSpec& spec, const PackedMatrix& matrix, void* to, float* scale,
               std::int32_t* sums) {
  each_row(spec, [&](const float* row, std::size_t) {
    for (std::size_t j = 0; j < spec.out; ++j) scale[j] = std::fmax(scale[j], std::fabs(row[j]));
  });
  // In double: the reciprocal of a tiny column would overflow a float.
  std::vector<double> inverse(matrix.panels * kPanel);
  for (std::size_t j = 0; j < inverse.size(); ++j) {
    const auto most = static_cast<double>(scale[j]);
    inverse[j] = most > 0 ? 127.0 / most : 0.0;
    scale[j] = most > 0 ? static_cast<float>(most / 127.0) : 1.0F;
  }
  pack_values<std::int8_t>(spec, matrix, to, [&](float weight, std::size_t column) {
    const auto value = static_cast<std::int8_t>(std::lrint(static_cast<double>(weight) * inverse[column]));
    sums[column] += value;
    return value;
  });
}

// The matrix as it will be, but for its pointers.
PackedMatrix packed_shape(const MatrixSpec& spec, Precision precision) {
  PackedMatrix matrix;
  matrix.precision = precision;
  matrix.in = round_up(spec.in, k_multiple(precision));
  matrix.out = spec.out;
  matrix.panels = round_up(spec.out, spec.out_multiple) / kPanel;
  return matrix;
}

// Behind the last panel: kernels ask for lines ahead of where they read.
constexpr std::size_t kReadAhead = 4096;

}  // namespace

std::size_t packed_bytes(const MatrixSpec& spec, Precision precision) {
  const PackedMatrix matrix = packed_shape(spec, precision);
  const std::size_t vector = round_up(matrix.panels * kPanel * sizeof(float), kLine);
  return matrix.panels * panel_bytes(matrix) + vector * (precision == Precision::int8 ? 3 : 1);
}

PackedMatrix pack(const MatrixSpec& spec, Precision precision, void* memory) {
  PackedMatrix matrix = packed_shape(spec, precision);
  if (precision == Precision::int8 && matrix.in > kMostInt8) {
    throw std::invalid_argument(spec.name + ": expected at most " + std::to_string(kMostInt8) +
                                " rows for int8, whose sums have 32 bits, got " + std::to_string(matrix.in));
  }
  const std::size_t columns = matrix.panels * kPanel;
  auto* const bytes = static_cast<std::byte*>(memory);
  auto* const bias = reinterpret_cast<float*>(bytes + matrix.panels * panel_bytes(matrix));
  if (spec.bias != nullptr) std::memcpy(bias, spec.bias, spec.out * sizeof(float));
  matrix.data = memory;
  matrix.bias = bias;
  switch (precision) {
    case Precision::fp32:
      pack_values<float>(spec, matrix, memory, [](float weight, std::size_t) { return weight; });
      break;
    case Precision::bf16:
      pack_bf16(spec, matrix, memory);
      break;
    case Precision::int8: {
      float* const scale = bias + columns;  // panels are 16 floats, a cache line, each
      auto* const sums = reinterpret_cast<std::int32_t*>(scale + columns);
      pack_int8(spec, matrix, memory, scale, sums);
      matrix.scale = scale;
      matrix.sums = sums;
      break;
    }
  }
  return matrix;
}

}  // namespace pepnet

namespace pepnet::engine {

const PackedMatrix* Packer::add(MatrixSpec spec, Precision precision) {
  const std::size_t offset = size_;
  size_ += round_up(packed_bytes(spec, precision), kLine);
  const PackedMatrix shape = packed_shape(spec, precision);
  return &matrices_.emplace_back(Matrix{std::move(spec), precision, offset, shape}).packed;
}

void Packer::finish() {
  buffer_ = HugeBuffer(size_ + kReadAhead);
  for (Matrix& matrix : matrices_) {
    matrix.packed = pack(matrix.spec, matrix.precision, buffer_.data() + matrix.offset);
    matrix.spec = {};
  }
}

}  // namespace pepnet::engine
