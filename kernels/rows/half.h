// 16-bit floats to float32, exactly, and back, without an instruction set beyond the baseline.
#pragma once

#include <bit>
#include <cstdint>

namespace pepnet {

// IEEE 754 binary16. Both 16-bit cases are computed and one is selected, so that a loop over a row
// vectorises. A subnormal half is a normal float: it is built as 2^-14·(1 + m) and 2^-14 is taken off, which
// never touches a subnormal float and is right even where a library has switched the thread to flush them to
// zero.
inline float float_from_half(std::uint16_t half) noexcept {
  constexpr std::uint32_t kExponent = 0x7C00U << 13;
  constexpr std::uint32_t kRebias = (127U - 15U) << 23;
  constexpr std::uint32_t kSmallest = 113U << 23;  // 2^-14
  const std::uint32_t sign = (std::uint32_t{half} & 0x8000U) << 16;
  const std::uint32_t magnitude = (std::uint32_t{half} & 0x7FFFU) << 13;
  const std::uint32_t exponent = magnitude & kExponent;
  const std::uint32_t normal =
      magnitude + kRebias + (exponent == kExponent ? kRebias : 0U);  // inf, NaN: all ones
  const float lifted = std::bit_cast<float>(magnitude + kSmallest) - std::bit_cast<float>(kSmallest);
  const std::uint32_t bits = exponent == 0 ? std::bit_cast<std::uint32_t>(lifted) : normal;
  return std::bit_cast<float>(bits | sign);
}

// bfloat16 is the upper half of a float32.
inline float float_from_bfloat16(std::uint16_t value) noexcept {
  return std::bit_cast<float>(std::uint32_t{value} << 16);
}

// Rounded to nearest, ties to even; NaN stays NaN.
inline std::uint16_t bfloat16_from_float(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFF'FFFFU) > 0x7F80'0000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// Rounded to nearest, ties to even; above 65504 it is infinity, as IEEE 754 says; NaN stays NaN.
inline std::uint16_t half_from_float(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFF'FFFFU;
  if (magnitude > 0x7F80'0000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (magnitude >= 0x4780'0000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // from 65536 on
  if (magnitude < 0x3880'0000U) {  // below 2^-14: steps of 2^-24, which adding 0.5 leaves in the low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F00'0000U));
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - (112U << 23)) >> 13));
}

}  // namespace pepnet
