// (x - mean) / √(variance + eps) ⊙ w + b over the columns of a group.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct LayerNormRows {
  using Does = network::LayerNorm;
  static RowFacts facts(const Does& does) { return {.w = does.w, .b = does.b, .value = does.eps}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    const int width = p.reads[0].width;
    const auto mean_of = [&](const auto& f) {
      float sum = 0.0F;
      for (int column = at.lane; column < width; column += 32) sum += f(number_of(p, 0, at, column));
      return sum_of_lanes(sum) / static_cast<float>(width);
    };
    const float mean = mean_of([](float x) { return x; });
    const float variance = mean_of([&](float x) { return (x - mean) * (x - mean); });
    const float scale = 1.0F / sqrtf(variance + p.value);
    put_each(p, at, [&](int column) {
      float x = (number_of(p, 0, at, column) - mean) * scale;
      if (p.w != nullptr) x *= p.w[column];
      return p.b == nullptr ? x : x + p.b[column];
    });
  }
#endif
};

}  // namespace pepnet::cuda
