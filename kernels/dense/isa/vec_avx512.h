// Sixteen floats: a panel is one register.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pepnet {
namespace {

using Vec = __m512;
using Integers = __m512i;
typedef std::uint32_t Bits __attribute__((vector_size(64)));
typedef std::uint16_t Halves __attribute__((vector_size(32)));
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

inline Halves halves(Bits bits) { return __builtin_convertvector(bits, Halves); }
inline bool any_nan(Vec x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }

// Rounds to the nearest whole number (ties to even) within [-128, 127], adds 128 and stores bytes. NaN gives
// 0.
inline void store_u8(std::uint8_t* p, Vec x) {
  const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
  const __m512i bounded =
      _mm512_min_epi32(_mm512_max_epi32(whole, _mm512_setzero_si512()), _mm512_set1_epi32(255));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(bounded));
}

#ifdef __AVX512BF16__
inline void store_bf16(std::uint16_t* p, Vec x) {
  const auto rounded = _mm512_cvtneps_pbh(x);
  __builtin_memcpy(p, &rounded, sizeof(rounded));
}
#endif

}  // namespace
}  // namespace pepnet
