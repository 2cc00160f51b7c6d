// The kernels that go row by row. See rowwise.h.
#pragma once

#include "cuda/collective.h"
#include "cuda/device.h"
#include "cuda/rowwise.h"

namespace pepnet::cuda {

// grid: the widest copy / kRowThreads rounded up, rows, copies.
template <class T>
__global__ void __launch_bounds__(kRowThreads) copy_columns(const ColumnCopies p) {
  const ColumnCopy& copy = p.copies[blockIdx.z];
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x),
            row = static_cast<int>(blockIdx.y);
  if (column >= copy.padded || row >= p.rows) return;
  const float value = column < copy.width
                          ? copy.from[static_cast<std::size_t>(row) * static_cast<std::size_t>(copy.width) +
                                      static_cast<std::size_t>(column)]
                          : 0.0F;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(copy.to_stride) +
                         static_cast<std::size_t>(column);
  if (copy.to_floats) {
    static_cast<float*>(copy.to)[at] = value;
  } else {
    static_cast<T*>(copy.to)[at] = narrow<T>(value);
  }
}

// grid: rows, tasks.
template <class T>
__global__ void __launch_bounds__(kRowThreads) mix_experts(const Mix p) {
  const std::size_t row = blockIdx.x, task = blockIdx.y;
  const float* const z =
      p.z + row * static_cast<std::size_t>(p.z_stride) + task * static_cast<std::size_t>(p.experts);
  float most = z[0];
  for (int e = 1; e < p.experts; ++e) most = z[e] > most ? z[e] : most;
  float sum = 0.0F;
  for (int e = 0; e < p.experts; ++e) sum += expf(z[e] - most);
  for (int column = static_cast<int>(threadIdx.x); column < p.columns; column += kRowThreads) {
    const float* const h =
        p.h + row * static_cast<std::size_t>(p.h_stride) + static_cast<std::size_t>(column);
    float mixed = 0.0F;
    for (int e = 0; e < p.experts; ++e)
      mixed += expf(z[e] - most) / sum * h[static_cast<std::size_t>(e) * static_cast<std::size_t>(p.columns)];
    const std::size_t at = row * static_cast<std::size_t>(p.out_stride) +
                           task * static_cast<std::size_t>(p.columns) + static_cast<std::size_t>(column);
    if (p.out_floats) {
      static_cast<float*>(p.out)[at] = mixed;
    } else {
      static_cast<T*>(p.out)[at] = narrow<T>(mixed);
    }
  }
}

// grid: rows · tasks / warps of a block, rounded up. A warp for each score.
template <class>
__global__ void __launch_bounds__(kRowThreads) score_tasks(const Score p) {
  const int number = static_cast<int>(blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (number >= p.rows * p.tasks) return;  // a whole warp
  const int row = number / p.tasks, task = number % p.tasks;
  const float* const h = p.h + static_cast<std::size_t>(row) * static_cast<std::size_t>(p.stride) +
                         static_cast<std::size_t>(task) * static_cast<std::size_t>(p.h_group);
  const float* const w = p.w + static_cast<std::size_t>(task) * static_cast<std::size_t>(p.width);
  float sum = 0.0F;
  for (int i = lane; i < p.width; i += 32) sum += h[i] * w[i];
  sum = sum_of_lanes(sum) + p.b[task];
  if (lane == 0) p.out[number] = 1.0F / (1.0F + expf(-sum));
}

}  // namespace pepnet::cuda
