// Sum, mean or maximum over groups or columns.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct ReduceRows {
  using Does = network::Reduce;
  // number: the reduction, and 4 more over groups.
  static RowFacts facts(const Does& does) {
    return {.number = static_cast<int>(does.by) + (does.over_groups ? kOverGroups : 0)};
  }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    const RowOperand& x = p.reads[0];
    const auto by = static_cast<network::Reduction>(p.number % kOverGroups);
    const bool most = by == network::Reduction::max, mean = by == network::Reduction::mean;
    if (p.number >= kOverGroups) {
      put_each(p, at, [&](int column) {
        float all = number_in(x, at, 0, column);
        for (int g = 1; g < x.groups; ++g) {
          const float one = number_in(x, at, g, column);
          all = most ? larger(all, one) : all + one;
        }
        return mean ? all / static_cast<float>(x.groups) : all;
      });
      return;
    }
    float all = most ? number_in(x, at, at.group, 0) : 0.0F;
    for (int column = at.lane; column < x.width; column += 32) {
      const float one = number_in(x, at, at.group, column);
      all = most ? larger(all, one) : all + one;
    }
    all = most ? largest_of_lanes(all) : sum_of_lanes(all);
    put_each(p, at, [&](int) { return mean ? all / static_cast<float>(x.width) : all; });
  }
#endif

 private:
  static constexpr int kOverGroups = 4;
};

}  // namespace pepnet::cuda
