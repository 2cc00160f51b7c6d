// One float: what every CPU can do. The compiler widens the loops over a panel as far as its baseline goes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pepnet {
namespace {

using Vec = float;
inline constexpr std::size_t kLanes = 1;

inline Vec splat(float x) { return x; }
inline Vec load(const float* p) { return *p; }
inline Vec load_first(const float* p, std::size_t n) { return n == 0 ? 0.0F : *p; }
inline void store(float* p, Vec x) { *p = x; }
inline Vec keep_first(Vec x, std::size_t n) { return n == 0 ? 0.0F : x; }
// Two roundings: a baseline CPU has no fused instruction, and calling a library for it would be slow.
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
// As the vector instructions: the second operand when one is NaN.
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
inline Vec vmin(Vec a, Vec b) { return a < b ? a : b; }
// For |x| < 2^22: adding 1.5·2^23 leaves no bits for a fraction.
inline Vec round_even(Vec x) {
  volatile float shifted = x + 12582912.0F;
  return shifted - 12582912.0F;
}
inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}
inline float power_of_two(int n) { return float_of(static_cast<std::uint32_t>(n + 127) << 23); }
// In two factors, since 2^n itself may be out of range. A NaN exponent comes with a NaN x.
inline Vec times_power_of_two(Vec x, Vec n) {
  const int whole = n >= -300.0F && n <= 300.0F ? static_cast<int>(n) : 0;
  const int half = whole / 2;
  return x * power_of_two(half) * power_of_two(whole - half);
}
inline float sum(Vec x) { return x; }
inline float largest(Vec x) { return x; }
inline bool any_nan(Vec x) { return x != x; }
inline void store_u8(std::uint8_t* p, Vec x) {
  const Vec whole = round_even(vmin(splat(127.0F), vmax(splat(-128.0F), x)));
  *p = whole == whole ? static_cast<std::uint8_t>(static_cast<int>(whole) + 128) : std::uint8_t{0};
}
inline void store_bf16(std::uint16_t* p, Vec x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t rounded = x != x ? bits | 0x400000U : bits + 0x7FFFU + (bits >> 16 & 1U);
  *p = static_cast<std::uint16_t>(rounded >> 16);
}
inline Vec widen_even(const char* pair) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, pair, sizeof(bits));
  return float_of(bits << 16);
}
inline Vec widen_odd(const char* pair) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, pair, sizeof(bits));
  return float_of(bits & 0xFFFF0000U);
}

inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
}  // namespace pepnet
