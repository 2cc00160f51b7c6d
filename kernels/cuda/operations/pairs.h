// The dot product of each pair of groups: a lane for each.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct PairsRows {
  using Does = network::Pairs;
  static RowFacts facts(const Does&) { return {}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    const RowOperand& x = p.reads[0];
    put_each(p, at, [&](int column) {
      // The pairs of group i, with those before it, begin at i(i - 1) / 2.
      int i = static_cast<int>((1.0F + sqrtf(1.0F + 8.0F * static_cast<float>(column))) / 2.0F);
      while (i * (i - 1) / 2 > column) --i;
      while (i * (i + 1) / 2 <= column) ++i;
      const int j = column - i * (i - 1) / 2;
      float sum = 0.0F;
      for (int k = 0; k < x.width; ++k) sum += number_in(x, at, i, k) * number_in(x, at, j, k);
      return sum;
    });
  }
#endif
};

}  // namespace pepnet::cuda
