// One float: what every CPU can do. The compiler widens the loops over a panel as far as its baseline goes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pepnet {
namespace {

using Vec = float;
using Integers = std::int32_t;
using Bits = std::uint32_t;
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
inline float power_of_two(int n) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(n + 127) << 23);
}
// In two factors, since 2^n itself may be out of range. A NaN exponent comes with a NaN x.
inline Vec times_power_of_two(Vec x, Vec n) {
  const int whole = n >= -300.0F && n <= 300.0F ? static_cast<int>(n) : 0;
  const int half = whole / 2;
  return x * power_of_two(half) * power_of_two(whole - half);
}
inline std::uint16_t halves(Bits bits) { return static_cast<std::uint16_t>(bits); }
inline bool any_nan(Vec x) { return x != x; }
inline void store_u8(std::uint8_t* p, Vec x) {
  const Vec whole = round_even(vmin(splat(127.0F), vmax(splat(-128.0F), x)));
  *p = whole == whole ? static_cast<std::uint8_t>(static_cast<int>(whole) + 128) : std::uint8_t{0};
}

}  // namespace
}  // namespace pepnet
