// Eight floats: a panel is two registers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pepnet {
namespace {

using Vec = __m256;
using Integers = __m256i;
typedef std::uint32_t Bits __attribute__((vector_size(32)));
typedef std::uint16_t Halves __attribute__((vector_size(16)));
inline constexpr std::size_t kLanes = 8;

// All ones in the first n lanes.
inline __m256i first(std::size_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

inline Vec splat(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
// Lanes beyond n are not read: the mask suppresses their faults too.
inline Vec load_first(const float* p, std::size_t n) { return _mm256_maskload_ps(p, first(n)); }
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline Vec keep_first(Vec x, std::size_t n) { return _mm256_and_ps(x, _mm256_castsi256_ps(first(n))); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec vmax(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec vmin(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec round_even(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
// For whole |n| <= 252, in two factors, since 2^n itself may be out of range. A NaN exponent comes with a NaN
// x, which stays NaN whatever it is multiplied with.
inline Vec times_power_of_two(Vec x, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  return _mm256_mul_ps(_mm256_mul_ps(x, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}

inline Halves halves(Bits bits) { return __builtin_convertvector(bits, Halves); }
inline bool any_nan(Vec x) { return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0; }

// Rounds to the nearest whole number (ties to even) within [-128, 127], adds 128 and stores bytes. NaN gives
// 0.
inline void store_u8(std::uint8_t* p, Vec x) {
  const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(128));
  // Saturating packs bound to [0, 255]; within 128-bit halves, so the two halves' bytes meet at the end.
  const __m256i words = _mm256_packs_epi32(whole, whole);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi32(bytes, 0x08));
}

}  // namespace
}  // namespace pepnet
