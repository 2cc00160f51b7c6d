// The row-wise kernels. See rowwise.h.
#pragma once

#include "cuda/collective.h"
#include "cuda/rowwise.h"

namespace pepnet::cuda {

template <int kWide>
__device__ __forceinline__ void copy_some(const ColumnCopy& copy, int row, int column) {
  const auto numbers = column < copy.width ? read<kWide>(copy.from, row, column) : Numbers<kWide>{};
  write(copy.to, row, column, numbers);
}

// grid: kCopiedColumns of all copies, one after another; rows / kCopiedRows rounded up.
__global__ void __launch_bounds__(kRowThreads) copy_columns(const __grid_constant__ ColumnCopies p) {
  let_next_begin();
  wait_for_last();
  int block = static_cast<int>(blockIdx.x), which = 0;
  while (which + 1 < p.count && block >= p.first[which + 1]) ++which;
  const ColumnCopy& copy = p.copies[which];
  const int first = (block - p.first[which]) * kCopiedColumns, thread = static_cast<int>(threadIdx.x);
  PEPNET_UNROLL
  for (int i = 0; i < kCopiedRows; ++i) {
    const int row = static_cast<int>(blockIdx.y) * kCopiedRows + i;
    if (row >= p.rows) return;
    if (copy.fours) {
      const int column = first + 4 * thread;
      if (column < copy.padded) copy_some<4>(copy, row, column);
    } else {
      for (int column = first + thread; column < first + kCopiedColumns && column < copy.padded;
           column += kRowThreads)
        copy_some<1>(copy, row, column);
    }
  }
}

// grid: rows, tasks or 1. Shared memory: a float for each task and expert.
__global__ void __launch_bounds__(kRowThreads) mix_experts(const Mix p) {
  let_next_begin();
  wait_for_last();
  float* const share = &shared_as<float>();
  const int row = static_cast<int>(blockIdx.x);
  const float* const z = static_cast<const float*>(p.z.first) + place_in(p.z, row, 0);
  for (int i = static_cast<int>(threadIdx.x); i < p.tasks * p.experts; i += kRowThreads) {
    const float* const first = z + i / p.experts * p.z_group;
    float most = first[0], sum = 0.0F;
    for (int e = 1; e < p.experts; ++e) most = first[e] > most ? first[e] : most;
    for (int e = 0; e < p.experts; ++e) sum += expf(first[e] - most);
    share[i] = expf(first[i % p.experts] - most) / sum;
  }
  __syncthreads();
  const int fours = p.columns / 4;
  for (int task = static_cast<int>(blockIdx.y); task < p.tasks; task += static_cast<int>(gridDim.y)) {
    for (int four = static_cast<int>(threadIdx.x); four < fours; four += kRowThreads) {
      Four mixed{};
      for (int e = 0; e < p.experts; ++e) {
        const int from = p.choices == nullptr ? e : p.choices[task * p.experts + e];
        const Four of = read<float>(p.h.first, place_in(p.h, row, from * p.columns + 4 * four));
        PEPNET_UNROLL
        for (int i = 0; i < 4; ++i) mixed.of[i] += share[task * p.experts + e] * of.of[i];
      }
      write(p.out, row, task * p.columns + 4 * four, mixed);
      if (p.also.first != nullptr) write(p.also, row, task * p.columns + 4 * four, mixed);
    }
  }
}

// grid: rows · tasks / warps of a block, rounded up. A warp for each score.
__global__ void __launch_bounds__(kRowThreads) score_tasks(const Score p) {
  let_next_begin();
  wait_for_last();
  const int number = static_cast<int>(blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (number >= p.rows * p.tasks) return;  // a whole warp
  const int row = number / p.tasks, task = number % p.tasks;
  const float* const h = static_cast<const float*>(p.h.first) + place_in(p.h, row, task * p.h_group);
  const float* const w = p.w + static_cast<std::size_t>(task) * static_cast<std::size_t>(p.width);
  float sum = 0.0F;
  for (int i = lane; i < p.width; i += 32) sum += h[i] * w[i];
  sum = sum_of_lanes(sum) + p.b[task];
  if (lane == 0)
    p.out[static_cast<std::size_t>(row) * static_cast<std::size_t>(p.stride) +
          static_cast<std::size_t>(task)] = 1.0F / (1.0F + expf(-sum));
}

}  // namespace pepnet::cuda
