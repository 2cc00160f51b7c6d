// Scores from the columns of heads.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct HeadRows {
  using Does = network::Head;
  static RowFacts facts(const Does& does) { return {.number = static_cast<int>(does.kind)}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    const auto x = [&](int column) { return number_of(p, 0, at, column); };
    switch (static_cast<network::HeadKind>(p.number)) {
      case network::HeadKind::probability:
        return put_each(p, at, [&](int column) { return sigmoid_of(x(column)); });
      case network::HeadKind::identity:
        return put_each(p, at, x);
      case network::HeadKind::exp:
        return put_each(p, at, [&](int column) { return expf(x(column)); });
      case network::HeadKind::softmax:
        break;
    }
    float most = x(0), sum = 0.0F;
    for (int column = at.lane; column < p.out.width; column += 32) most = larger(most, x(column));
    most = largest_of_lanes(most);
    for (int column = at.lane; column < p.out.width; column += 32) sum += expf(x(column) - most);
    sum = sum_of_lanes(sum);
    put_each(p, at, [&](int column) { return expf(x(column) - most) / sum; });
  }
#endif
};

}  // namespace pepnet::cuda
