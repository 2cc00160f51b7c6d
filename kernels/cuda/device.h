// The parts of CUDA that kernels use, and how they read and write numbers. Without nvcc the same sources
// compile for the CPU, where tests run them thread by thread: tests/kernels/cpp/cuda_emulated.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define PEPNET_UNROLL _Pragma("unroll")
#define PEPNET_NO_UNROLL _Pragma("unroll 1")
// A GPU faults at an address that is no multiple of what is read or written there at once; so do tests.
#define PEPNET_ALIGNED(address, bytes)
#else
#include "cuda_emulated.h"
#define PEPNET_UNROLL
#define PEPNET_NO_UNROLL
#define PEPNET_ALIGNED(address, bytes) pepnet::cuda_emulated::expect_aligned(address, bytes)
#endif

#include "cuda/numbers.h"

namespace pepnet::cuda {

// Neighbours of a row: read and written at once, so at a multiple of their number.
template <int kWide>
struct Numbers {
  float of[extent(kWide)];
};
using Four = Numbers<4>;
template <class T, int kWide>
struct alignas(extent(kWide) * sizeof(T)) Stored {
  T of[extent(kWide)];
};

template <class T, int kWide = 4>
__device__ __forceinline__ Numbers<kWide> read(const void* from, std::size_t at) {
  const T* const address = static_cast<const T*>(from) + at;
  PEPNET_ALIGNED(address, sizeof(Stored<T, kWide>));
  const auto stored = *reinterpret_cast<const Stored<T, kWide>*>(address);
  Numbers<kWide> numbers;
  PEPNET_UNROLL
  for (int i = 0; i < kWide; ++i) numbers.of[i] = widen(stored.of[i]);
  return numbers;
}

template <class T, int kWide>
__device__ __forceinline__ void store(void* to, std::size_t at, const Numbers<kWide>& numbers) {
  T* const address = static_cast<T*>(to) + at;
  PEPNET_ALIGNED(address, sizeof(Stored<T, kWide>));
  Stored<T, kWide> stored;
  PEPNET_UNROLL
  for (int i = 0; i < kWide; ++i) stored.of[i] = narrow<T>(numbers.of[i]);
  *reinterpret_cast<Stored<T, kWide>*>(address) = stored;
}

__device__ __forceinline__ std::size_t place_in(const Columns& columns, int row, int column) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns.stride) +
         static_cast<std::size_t>(column);
}
template <int kWide = 4>
__device__ __forceinline__ Numbers<kWide> read(const Columns& from, int row, int column) {
  const std::size_t at = place_in(from, row, column);
  return from.precision == Precision::fp32 ? read<float, kWide>(from.first, at)
                                           : read<bf16, kWide>(from.first, at);
}
template <int kWide>
__device__ __forceinline__ void write(const Columns& to, int row, int column, const Numbers<kWide>& numbers) {
  const std::size_t at = place_in(to, row, column);
  if (to.precision == Precision::fp32) {
    store<float>(to.first, at, numbers);
  } else {
    store<bf16>(to.first, at, numbers);
  }
}

}  // namespace pepnet::cuda
