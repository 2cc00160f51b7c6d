// Four neighbours of a row: read and written at once, so at a multiple of four.
#pragma once

#include "cuda/device.h"

namespace pepnet::cuda {

struct Four {
  float of[4];
};
template <class T>
struct alignas(4 * sizeof(T)) Stored {
  T of[4];
};

template <class T>
__device__ __forceinline__ Four read_four(const void* from, std::size_t at) {
  const T* const address = static_cast<const T*>(from) + at;
  PEPNET_ALIGNED(address, sizeof(Stored<T>));
  const auto stored = *reinterpret_cast<const Stored<T>*>(address);
  return {{widen(stored.of[0]), widen(stored.of[1]), widen(stored.of[2]), widen(stored.of[3])}};
}
template <class T>
__device__ __forceinline__ void write_four(void* to, std::size_t at, const Four& four) {
  T* const address = static_cast<T*>(to) + at;
  PEPNET_ALIGNED(address, sizeof(Stored<T>));
  *reinterpret_cast<Stored<T>*>(address) = {
      {narrow<T>(four.of[0]), narrow<T>(four.of[1]), narrow<T>(four.of[2]), narrow<T>(four.of[3])}};
}

// The same to memory of float32 where `floats`, else of T.
template <class T>
__device__ __forceinline__ void write_four(bool floats, void* to, std::size_t at, const Four& four) {
  if (floats) {
    write_four<float>(to, at, four);
  } else {
    write_four<T>(to, at, four);
  }
}
template <class T>
__device__ __forceinline__ void write_one(bool floats, void* to, std::size_t at, float value) {
  if (floats) {
    static_cast<float*>(to)[at] = value;
  } else {
    static_cast<T*>(to)[at] = narrow<T>(value);
  }
}

}  // namespace pepnet::cuda
