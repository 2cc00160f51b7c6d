// Activations and γσ of values that no product makes, or that others read too.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct ActivateRows {
  using Does = network::Activate;
  static RowFacts facts(const Does& does) {
    const network::Activation& activation = does.activation;
    return {
        .w = activation.slope, .number = static_cast<int>(activation.function), .value = activation.alpha};
  }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    const auto function = static_cast<network::Function>(p.number);
    put_each(p, at, [&](int column) {
      const float slope = p.w == nullptr ? 0.0F : p.w[column];
      return activated(function, number_of(p, 0, at, column), p.value, slope);
    });
  }
#endif
};

struct GateRows {
  using Does = network::Gate;
  static RowFacts facts(const Does& does) { return {.value = does.gamma}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    put_each(p, at, [&](int column) { return gate_of(number_of(p, 0, at, column), p.value); });
  }
#endif
};

}  // namespace pepnet::cuda
