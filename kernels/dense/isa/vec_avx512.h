// Sixteen floats: a panel is one register.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pepnet {
namespace {

using Vec = __m512;
inline constexpr std::size_t kLanes = 16;

inline __mmask16 first(std::size_t n) { return static_cast<__mmask16>((1U << n) - 1U); }

inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load_first(const float* p, std::size_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec keep_first(Vec x, std::size_t n) { return _mm512_maskz_mov_ps(first(n), x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec vmax(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec vmin(Vec a, Vec b) { return _mm512_min_ps(a, b); }
// g++ makes macros of intrinsics with a constant operand where it does not optimise, and this one has a mask
// of -1.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
inline Vec round_even(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#pragma GCC diagnostic pop
inline Vec times_power_of_two(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }

// Adds the lanes pairwise, always in the same order.
inline float sum(Vec x) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}

// The largest lane; NaN only if it is in the first lane of its pair at every step, so ask `any_nan` as well.
inline float largest(Vec x) { return _mm512_reduce_max_ps(x); }
inline bool any_nan(Vec x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }

// Rounds to the nearest whole number (ties to even) within [-128, 127], adds 128 and stores bytes. NaN gives
// 0.
inline void store_u8(std::uint8_t* p, Vec x) {
  const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
  const __m512i bounded =
      _mm512_min_epi32(_mm512_max_epi32(whole, _mm512_setzero_si512()), _mm512_set1_epi32(255));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(bounded));
}

// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
inline void store_bf16(std::uint16_t* p, Vec x) {
#ifdef __AVX512BF16__
  const auto rounded = _mm512_cvtneps_pbh(x);
  __m256i bits;
  __builtin_memcpy(&bits, &rounded, sizeof(bits));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i chosen = _mm512_mask_mov_epi32(up, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
#endif
}

// A line holds 16 pairs: the even value of k in the low half of a lane, the odd one in the high half.
inline Vec widen_even(const char* line) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(line), 16));
}
inline Vec widen_odd(const char* line) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(line), _mm512_set1_epi32(INT32_C(-65536))));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace pepnet
