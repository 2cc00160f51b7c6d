// The numbers that kernels compute with, the same on the host and on the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#define PEPNET_BOTH __host__ __device__ __forceinline__
#else
#define PEPNET_BOTH inline
#endif

namespace pepnet::cuda {

// How long an array is.
PEPNET_BOTH constexpr std::size_t extent(int count) { return static_cast<std::size_t>(count); }

// A number that reads and writes as bfloat16, to nearest even.
struct bf16 {
  std::uint16_t bits;
};

PEPNET_BOTH float widen(float value) { return value; }
PEPNET_BOTH float widen(bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// How numbers are stored; sums are float32 in both.
enum class Precision : int { fp32, bf16 };

PEPNET_BOTH constexpr std::size_t bytes_of(Precision precision) {
  return precision == Precision::bf16 ? sizeof(bf16) : sizeof(float);
}

template <Precision kPrecision>
using Number = std::conditional_t<kPrecision == Precision::bf16, bf16, float>;

// Some columns of a matrix.
struct Columns {
  void* first;  // of row 0
  int stride;   // numbers from one row to the next
  Precision precision;
};

// NaN stays one: the carry of rounding must not make it an infinity.
template <class T>
PEPNET_BOTH T narrow(float value);
template <>
PEPNET_BOTH float narrow<float>(float value) {
  return value;
}
template <>
PEPNET_BOTH bf16 narrow<bf16>(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7FFF'FFFFU) > 0x7F80'0000U) return {static_cast<std::uint16_t>(bits >> 16 | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16)};
}

}  // namespace pepnet::cuda
