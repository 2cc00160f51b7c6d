// ½((Σ v)² - Σ v²) of each column, over groups and over columns of x times rows of w.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct FmRows {
  using Does = network::Fm;
  // number: 0 without v, 1 without x, 2 with both.
  static RowFacts facts(const Does& does) { return {.w = does.w, .number = !does.v ? 0 : !does.x ? 1 : 2}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    put_each(p, at, [&](int column) {
      float sum = 0.0F, squares = 0.0F;
      const auto add = [&](float one) {
        sum += one;
        squares += one * one;
      };
      if (p.number > 0)
        for (int g = 0; g < p.reads[0].groups; ++g) add(number_in(p.reads[0], at, g, column));
      if (p.number != 1) {
        const RowOperand& x = p.reads[p.number == 0 ? 0 : 1];
        for (int j = 0; j < x.width; ++j)
          add(number_in(x, at, 0, j) *
              p.w[static_cast<std::size_t>(j) * static_cast<std::size_t>(p.out.width) +
                  static_cast<std::size_t>(column)]);
      }
      return 0.5F * (sum * sum - squares);
    });
  }
#endif
};

}  // namespace pepnet::cuda
