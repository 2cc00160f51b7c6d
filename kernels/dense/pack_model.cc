#include "dense/pack_model.h"

#include <cstring>
#include <utility>

namespace pepnet::engine {
namespace {

// Behind the last panel: kernels ask for lines ahead of where they read.
constexpr std::size_t kSlack = 4096;

}  // namespace

std::size_t Packer::reserve(std::size_t bytes) {
  const std::size_t offset = size_;
  size_ += round_up(bytes, 64);
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
  buffer_ = HugeBuffer(size_ + kSlack);
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
