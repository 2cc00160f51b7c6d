// Packing: a float32 matrix into the layout of packed_matrix.h.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "dense/packed_matrix.h"

namespace pepnet {

// `rows` rows of the source from `source` on become values of k from `k` on.
struct RowRun {
  std::size_t source, rows, k;
};

struct MatrixSpec {
  std::string name;                   // for errors
  const float* w = nullptr;           // row k, column j at w[k * stride + j]; finite
  std::ptrdiff_t stride = 0;          // floats
  const float* bias = nullptr;        // [out]; null for zeros
  std::size_t in = 0, out = 0;        // k and columns before padding
  std::vector<RowRun> runs;           // which row is which k; the others of [0, in) are zero
  std::size_t out_multiple = kPanel;  // columns are padded with zeros up to a multiple of this
};

// The matrix as it will be, but for its pointers.
PackedMatrix packed_shape(const MatrixSpec& spec, Precision precision);

// What `pack` fills: the panels, then bias, scale and sums, each from a cache line on.
std::size_t packed_bytes(const MatrixSpec& spec, Precision precision);

// `memory` is zeroed and starts at a cache line. bf16 rounds to nearest, ties to even; int8 has a scale per
// column, its largest magnitude over 127, and 1 for a column of zeros. Throws std::invalid_argument naming
// the matrix when k is too large for int8's sums or a value for bf16.
PackedMatrix pack(const MatrixSpec& spec, Precision precision, void* memory);

// A plain matrix [in, out] with bias [out].
std::size_t packed_bytes(std::size_t in, std::size_t out, Precision precision);
PackedMatrix pack(const float* w, std::ptrdiff_t stride, std::size_t in, std::size_t out, const float* bias,
                  Precision precision, void* memory);

}  // namespace pepnet
