// All weights of a model in one buffer.
#pragma once

#include <cstddef>
#include <deque>

#include "dense/pack.h"
#include "threads/huge_buffer.h"

namespace pepnet::engine {

class Packer {
 public:
  // Weights come to lie in the order of these calls. What is returned lives as long as the packer; its
  // pointers are set by `finish`.
  const PackedMatrix* add(MatrixSpec spec, Precision precision);
  const float* const* add_vector(const float* values, std::size_t count);

  // Packs everything; what the specs point to is not read again. Throws what `pack` throws.
  void finish();

  std::size_t bytes() const { return buffer_.size(); }

 private:
  struct Matrix {
    MatrixSpec spec;
    Precision precision;
    std::size_t offset;
    PackedMatrix packed;
  };
  struct Vector {
    const float* source;
    std::size_t count, offset;
    const float* packed;
  };

  std::size_t reserve(std::size_t bytes);

  std::deque<Matrix> matrices_;  // deques: addresses stay
  std::deque<Vector> vectors_;
  std::size_t size_ = 0;
  HugeBuffer buffer_;
};

}  // namespace pepnet::engine
