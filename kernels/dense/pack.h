// Packing: float32 matrices into the layout of PackedMatrix.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "dense/ops.h"
#include "threads/huge_buffer.h"

namespace pepnet {

// `rows` rows of the source from `source` on become values of k from `k` on.
struct RowRun {
  std::size_t source, rows, k;
};

struct MatrixSpec {
  std::string name;                   // for errors
  const float* w = nullptr;           // row k, column j at w[k * stride + j]; finite
  std::size_t stride = 0;             // floats
  const float* bias = nullptr;        // [out]; null for zeros
  std::size_t in = 0, out = 0;        // k and columns before padding
  std::vector<RowRun> runs = {};      // which row is which k, others of [0, in) are zero; none: row k is k
  std::size_t out_multiple = kPanel;  // columns are padded with zeros up to a multiple of this
};

// What `pack` fills: the panels, then bias, scale and sums, each from a cache line on.
std::size_t packed_bytes(const MatrixSpec& spec, Precision precision);

// `memory` is zeroed and starts at a cache line. bf16 rounds to nearest, ties to even; int8 has a scale per
// column, its largest magnitude over 127, and 1 for a column of zeros. Throws std::invalid_argument naming
// the matrix when k is too large for int8's sums or a value for bf16.
PackedMatrix pack(const MatrixSpec& spec, Precision precision, void* memory);

}  // namespace pepnet

namespace pepnet::engine {

// All weights of a model in one buffer.
class Packer {
 public:
  // Weights come to lie in the order of these calls. What is returned lives as long as the packer; its
  // pointers are set by `finish`.
  const PackedMatrix* add(MatrixSpec spec, Precision precision);

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

  std::deque<Matrix> matrices_;  // a deque: addresses stay
  std::size_t size_ = 0;
  HugeBuffer buffer_;
};

}  // namespace pepnet::engine
