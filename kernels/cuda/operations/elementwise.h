// x ⊙ y and x + y.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct MultiplyRows {
  using Does = network::Multiply;
  static RowFacts facts(const Does&) { return {}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    put_each(p, at, [&](int column) { return number_of(p, 0, at, column) * number_of(p, 1, at, column); });
  }
#endif
};

struct AddRows {
  using Does = network::Add;
  static RowFacts facts(const Does&) { return {}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    put_each(p, at, [&](int column) { return number_of(p, 0, at, column) + number_of(p, 1, at, column); });
  }
#endif
};

}  // namespace pepnet::cuda
