// x ⊙ w + b, of as many columns as w has or of one.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct AffineRows {
  using Does = network::Affine;
  static RowFacts facts(const Does& does) { return {.w = does.w, .b = does.b}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    put_each(p, at, [&](int column) {
      const float scaled = number_of(p, 0, at, column) * p.w[column];
      return p.b == nullptr ? scaled : scaled + p.b[column];
    });
  }
#endif
};

}  // namespace pepnet::cuda
