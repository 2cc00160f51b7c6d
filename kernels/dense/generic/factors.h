// Sums of factors and of their squares over vectors: what a factorisation machine asks of each row.
#pragma once

#include "dense/generic/panel.h"

namespace pepnet {
namespace {

// For kRows rows at once, which share the loads of w. A row's sums are the same whatever is beside it.
template <std::size_t kRows>
inline void add_factors_of(const float* x, std::size_t x_stride, std::size_t columns, const float* w,
                           float* sums) {
  for (std::size_t v = 0; v < kVecs; ++v) {
    Vec sum[kRows], squares[kRows];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRows; ++r) sum[r] = squares[r] = splat(0.0F);
    for (std::size_t j = 0; j < columns; ++j) {
      const Vec factor = load(w + j * kPanel + v * kLanes);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRows; ++r) {
        const Vec one = splat(x[r * x_stride + j]) * factor;
        sum[r] = sum[r] + one;
        squares[r] = fma(one, one, squares[r]);
      }
    }
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRows; ++r) {
      float* const to = sums + r * 2 * kPanel + v * kLanes;
      store(to, load(to) + sum[r]);
      store(to + kPanel, load(to + kPanel) + squares[r]);
    }
  }
}

inline void add_factors(const float* x, std::size_t x_stride, std::size_t rows, std::size_t columns,
                        const float* w, float* sums) {
  for (; rows >= 4; rows -= 4, x += 4 * x_stride, sums += 8 * kPanel)
    add_factors_of<4>(x, x_stride, columns, w, sums);
  for (; rows > 0; --rows, x += x_stride, sums += 2 * kPanel)
    add_factors_of<1>(x, x_stride, columns, w, sums);
}

}  // namespace
}  // namespace pepnet
