// What the operations that are no products share. Each has a file here with its kernel, and what its kernel
// is told of it; a warp computes one group of one row.
#pragma once

#include "cuda/rowwise.h"
#include "network/network.h"

// Kernels compile for a GPU, or for its emulation; the lowering reads these files too, for what is told of
// them.
#if defined(__CUDACC__) || __has_include("cuda_emulated.h")
#define PEPNET_KERNELS
#include "cuda/activation.h"
#include "cuda/collective.h"
#endif

namespace pepnet::cuda {

// What a kernel is told beside its operands.
struct RowFacts {
  network::TensorName w = {}, b = {};
  int number = 0;
  float value = 0.0F;
};

#ifdef PEPNET_KERNELS

// Which group of which row, and which lane of its warp.
struct RowAt {
  int row, group, lane;
};

__device__ __forceinline__ float number_in(const RowOperand& from, const RowAt& at, int group, int column) {
  return read<1>(from.at, at.row, group * from.group + column).of[0];
}
// The operand's column, or its only one.
__device__ __forceinline__ float number_of(const RowWork& p, int operand, const RowAt& at, int column) {
  const RowOperand& from = p.reads[operand];
  return number_in(from, at, at.group, from.width == 1 ? 0 : column);
}

__device__ __forceinline__ void put(const RowWork& p, const RowAt& at, int column, float value) {
  const Numbers<1> one{{value}};
  write(p.out.at, at.row, at.group * p.out.group + column, one);
  if (p.also.at.first != nullptr) write(p.also.at, at.row, at.group * p.also.group + column, one);
}

// Each column of the result as f(column), and zeros beyond.
template <class F>
__device__ __forceinline__ void put_each(const RowWork& p, const RowAt& at, const F& f) {
  for (int column = at.lane; column < p.out.width; column += 32) put(p, at, column, f(column));
  for (int column = p.out.width + at.lane; column < p.padded; column += 32) put(p, at, column, 0.0F);
}

#endif

}  // namespace pepnet::cuda
