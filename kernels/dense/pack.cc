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
      f(spec.w + static_cast<std::ptrdiff_t>(run.source + i) * spec.stride, run.k + i);
    }
  }
}

// Where value (k, column) lies, counted in values.
std::size_t place(const PackedMatrix& matrix, std::size_t step, std::size_t k, std::size_t column) {
  const std::size_t line = (column / kPanel) * (matrix.in / step) + k / step;
  return (line * kPanel + column % kPanel) * step + k % step;
}

void pack_fp32(const MatrixSpec& spec, const PackedMatrix& matrix, float* to) {
  each_row(spec, [&](const float* row, std::size_t k) {
    for (std::size_t j = 0; j < spec.out; ++j) to[place(matrix, 1, k, j)] = row[j];
  });
}

void pack_bf16(const MatrixSpec& spec, const PackedMatrix& matrix, std::uint16_t* to) {
  each_row(spec, [&](const float* row, std::size_t k) {
    for (std::size_t j = 0; j < spec.out; ++j) {
      const std::uint16_t value = bfloat16_from_float(row[j]);
      if ((value & 0x7F80U) == 0x7F80U) {
        throw std::invalid_argument(spec.name + ": expected values that bf16 can hold, got " +
                                    std::to_string(row[j]));
      }
      to[place(matrix, 2, k, j)] = value;
    }
  });
}

void pack_int8(const MatrixSpec& spec, const PackedMatrix& matrix, std::int8_t* to, float* scale,
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
  each_row(spec, [&](const float* row, std::size_t k) {
    for (std::size_t j = 0; j < spec.out; ++j) {
      const auto value = static_cast<std::int8_t>(std::lrint(static_cast<double>(row[j]) * inverse[j]));
      to[place(matrix, 4, k, j)] = value;
      sums[j] += value;
    }
  });
}

// Behind the last panel: kernels ask for lines ahead of where they read.
constexpr std::size_t kReadAhead = 4096;

}  // namespace

PackedMatrix packed_shape(const MatrixSpec& spec, Precision precision) {
  PackedMatrix matrix;
  matrix.precision = precision;
  matrix.in = round_up(spec.in, k_multiple(precision));
  matrix.out = spec.out;
  matrix.panels = round_up(spec.out, spec.out_multiple) / kPanel;
  return matrix;
}

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
      pack_fp32(spec, matrix, static_cast<float*>(memory));
      break;
    case Precision::bf16:
      pack_bf16(spec, matrix, static_cast<std::uint16_t*>(memory));
      break;
    case Precision::int8: {
      float* const scale = bias + columns;  // panels are 16 floats, a cache line, each
      auto* const sums = reinterpret_cast<std::int32_t*>(scale + columns);
      pack_int8(spec, matrix, static_cast<std::int8_t*>(memory), scale, sums);
      matrix.scale = scale;
      matrix.sums = sums;
      break;
    }
  }
  return matrix;
}

}  // namespace pepnet

namespace pepnet::engine {

std::size_t Packer::reserve(std::size_t bytes) {
  const std::size_t offset = size_;
  size_ += round_up(bytes, kLine);
  return offset;
}

const PackedMatrix* Packer::add(MatrixSpec spec, Precision precision) {
  const std::size_t offset = reserve(packed_bytes(spec, precision));
  const PackedMatrix shape = packed_shape(spec, precision);
  return &matrices_.emplace_back(Matrix{std::move(spec), precision, offset, shape}).packed;
}

const float* const* Packer::add_vector(const float* values, std::size_t count) {
  return &vectors_.emplace_back(Vector{values, count, reserve(count * sizeof(float)), nullptr}).packed;
}

void Packer::finish() {
  buffer_ = HugeBuffer(size_ + kReadAhead);
  for (Matrix& matrix : matrices_) {
    matrix.packed = pack(matrix.spec, matrix.precision, buffer_.data() + matrix.offset);
    matrix.spec = {};
  }
  for (Vector& vector : vectors_) {
    auto* const to = reinterpret_cast<float*>(buffer_.data() + vector.offset);
    std::memcpy(to, vector.source, vector.count * sizeof(float));
    vector.packed = to;
  }
}

}  // namespace pepnet::engine
