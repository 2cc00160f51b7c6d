// What everything in this folder builds on. PEPNET_VECTOR, defined by each file of isa/ before its first
// include, names the header that says what a register is.
#pragma once

#include PEPNET_VECTOR

#include "dense/ops.h"

namespace pepnet {
namespace {

inline constexpr std::size_t kVecs = kPanel / kLanes;  // registers in a panel

// The first `n` floats at `p`, zeros beyond; those are not read.
inline Vec load_up_to(const float* p, std::size_t n) { return n < kLanes ? load_first(p, n) : load(p); }

// Lanes are combined pairwise, always in the same order.
template <class Combine>
inline float reduce(Vec x, Combine combine) {
  alignas(64) float lane[kLanes];
  store(lane, x);
#pragma GCC unroll 4
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lane[i] = combine(lane[i], lane[i + half]);
  }
  return lane[0];
}
inline float sum(Vec x) {
  return reduce(x, [](float a, float b) { return a + b; });
}
// Means nothing with a NaN in x: ask `any_nan` as well.
inline float largest(Vec x) {
  return reduce(x, [](float a, float b) { return a > b ? a : b; });
}

#ifndef __AVX512BF16__  // which has an instruction
// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
inline void store_bf16(std::uint16_t* p, Vec x) {
  const Bits bits = __builtin_bit_cast(Bits, x);
  const Bits rounded = bits + 0x7FFFU + (bits >> 16 & 1U);
  const auto high = halves((x != x ? bits | 0x400000U : rounded) >> 16);
  __builtin_memcpy(p, &high, sizeof(high));
}
#endif

template <class T>
inline T load_as(const char* p) {
  T x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}
// A register's worth of pairs of bfloat16: the even value of k in the low half of a lane, the odd one in the
// high half.
inline Vec widen_even(const char* pairs) { return __builtin_bit_cast(Vec, load_as<Bits>(pairs) << 16); }
inline Vec widen_odd(const char* pairs) {
  return __builtin_bit_cast(Vec, load_as<Bits>(pairs) & 0xFFFF0000U);
}

// To the second level: what is asked for is needed a tile later.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
}  // namespace pepnet
