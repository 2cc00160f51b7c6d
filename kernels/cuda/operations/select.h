// The group whose number stands in a column of an input; NaN where there is no such group.
#pragma once

#include "cuda/operations/rows.h"

namespace pepnet::cuda {

struct SelectRows {
  using Does = network::Select;
  static RowFacts facts(const Does& does) { return {.number = static_cast<int>(does.column)}; }

#ifdef PEPNET_KERNELS
  __device__ static void run(const RowWork& p, const RowAt& at) {
    const float which = number_in(p.reads[1], at, 0, p.number);
    const bool there = which >= 0.0F && which < static_cast<float>(p.reads[0].groups);
    const float none = __uint_as_float(0x7FC0'0000U);  // NaN
    const int group = there ? static_cast<int>(which) : 0;
    put_each(p, at, [&](int column) { return there ? number_in(p.reads[0], at, group, column) : none; });
  }
#endif
};

}  // namespace pepnet::cuda
