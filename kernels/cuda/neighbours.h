// Neighbours of a row: read and written at once, so at a multiple of their number.
#pragma once

#include "cuda/device.h"

namespace pepnet::cuda {

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

// To memory of float32 where `floats`, else of T.
template <class T, int kWide>
__device__ __forceinline__ void write(bool floats, void* to, std::size_t at, const Numbers<kWide>& numbers) {
  if (floats) {
    store<float>(to, at, numbers);
  } else {
    store<T>(to, at, numbers);
  }
}

}  // namespace pepnet::cuda
