// Operations on single rows: rounding activations, mixing experts, the last layer.
#pragma once

#include "dense/generic/activations.h"
#include "dense/generic/factors.h"
#include "dense/generic/math.h"
#include "dense/generic/panel.h"

namespace pepnet {
namespace {

inline void put(float* p, Vec x) { store(p, x); }
inline void put(std::uint16_t* p, Vec x) { store_bf16(p, x); }

template <class To>
void convert(const float* x, std::size_t n, void* out, std::size_t padded) {
  To* const to = static_cast<To*>(out);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) put(to + i, load(x + i));
  for (; i < padded; i += kLanes) put(to + i, i < n ? load_first(x + i, n - i) : splat(0.0F));
}

// Below this a row is taken for zeros: the reciprocal of its scale would be infinite.
inline constexpr float kSmallest = 0x1p-100F;

inline void quantize_row(const float* x, std::size_t n, std::uint8_t* out, std::size_t padded, float* scale,
                         std::int32_t* zero) {
  Vec most = splat(0.0F);
  Vec least = splat(0.0F);
  bool bad = false;
  std::size_t i = 0;
  for (; i < n; i += kLanes) {
    const Vec v = load_up_to(x + i, n - i);
    bad = bad || any_nan(v);
    most = vmax(v, most);
    least = vmax(-v, least);
  }
  const float highest = largest(most);
  const float lowest = largest(least);
  const float range = highest > lowest ? highest : lowest;
  const bool signed_row = lowest > 0.0F;
  const float top = signed_row ? 127.0F : 255.0F;
  bad = bad || !(range <= 3.402823466e38F);
  const bool empty = bad || range < kSmallest;
  *scale = bad ? __builtin_nanf("") : empty ? 0.0F : range / top;
  *zero = signed_row ? 128 : 0;
  const Vec inverse = splat(empty ? 0.0F : top / range);
  // store_u8 adds 128: without a zero point of 128 it is taken off before.
  const Vec shift = splat(signed_row ? 0.0F : -128.0F);
  for (i = 0; i < padded; i += kLanes) {
    const Vec v = i < n ? load_up_to(x + i, n - i) : splat(0.0F);
    store_u8(out + i, round_even(bad ? splat(0.0F) : v * inverse) + shift);
  }
}

// The largest of n values; NaN if any is.
inline float largest_of(const float* x, std::size_t n) {
  float most = x[0];
  for (std::size_t i = 1; i < n; ++i) {
    if (x[i] > most || x[i] != x[i]) most = x[i];
  }
  return most;
}

// exp(z - most) of up to kExperts experts from `begin`, zero beyond.
inline constexpr std::size_t kExperts = 64;

inline std::size_t exponentials(const float* z, std::size_t begin, std::size_t experts, float most,
                                float* out) {
  const std::size_t count = experts - begin < kExperts ? experts - begin : kExperts;
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t left = count - i;
    const Vec v = exp(load_up_to(z + begin + i, left) + splat(-most));
    store(out + i, keep_first(v, left < kLanes ? left : kLanes));
  }
  return count;
}

inline void mix_rows(const Mix& mix) {
  alignas(64) float share[kExperts];
  for (std::size_t r = 0; r < mix.rows; ++r) {
    const float* const z = mix.z + r * mix.z_stride;
    float* const out = mix.out + r * mix.out_stride;
    const float most = largest_of(z, mix.experts);
    float total = 0.0F;
    for (std::size_t e = 0; e < mix.experts; e += kExperts) {
      const std::size_t count = exponentials(z, e, mix.experts, most, share);
      for (std::size_t i = 0; i < count; ++i) total += share[i];
    }
    for (std::size_t e = 0; e < mix.experts; e += kExperts) {
      const std::size_t count = exponentials(z, e, mix.experts, most, share);
      for (std::size_t i = 0; i < count; ++i) share[i] /= total;
      const float* const h = mix.h + e * mix.expert_stride + r * mix.h_stride;
      for (std::size_t c = 0; c < mix.width; c += kLanes) {
        const std::size_t left = mix.width - c;
        Vec sum = e == 0 ? splat(0.0F) : load(out + c);
        for (std::size_t i = 0; i < count; ++i) {
          sum = fma(splat(share[i]), load_up_to(h + i * mix.expert_stride + c, left), sum);
        }
        store(out + c, sum);
      }
    }
    for (std::size_t c = round_up(mix.width, kLanes); c < round_up(mix.width, kPanel); ++c) out[c] = 0.0F;
  }
}

inline void score_rows(const float* h, std::size_t h_stride, const float* w, float b, std::size_t width,
                       std::size_t rows, float* out, std::size_t out_stride) {
  alignas(64) float lane[kLanes < 16 ? 16 : kLanes];
  for (std::size_t r = 0; r < rows; ++r) {
    const float* const row = h + r * h_stride;
    Vec acc = splat(0.0F);
    for (std::size_t c = 0; c < width; c += kLanes) {
      acc = fma(load_up_to(row + c, width - c), load_up_to(w + c, width - c), acc);
    }
    store(lane, sigmoid(splat(sum(acc) + b)));
    out[r * out_stride] = lane[0];
  }
}

inline Extent extent_of(const float* x, const float* limits, std::size_t n) {
  Vec beyond = splat(0.0F);
  Vec squares = splat(0.0F);
  for (std::size_t i = 0; i < n; i += kLanes) {
    const Vec v = load_up_to(x + i, n - i), limit = load_up_to(limits + i, n - i);
    beyond = vmax(vmax(v, -v) - limit, beyond);
    squares = fma(v, v, squares);
  }
  return {largest(beyond), sum(squares)};
}

// A table, known when it is compiled (constinit: nothing of these files may run at load): its own product,
// and the work on rows, which differs between tables in the rounding of activations alone.
constexpr Ops table(Isa isa, Precision precision, Activation activation, const char* how,
                    void (*product)(const Product&)) {
  return {
      isa,          precision,    activation,
      how,          product,      activation == Activation::bf16 ? convert<std::uint16_t> : convert<float>,
      quantize_row, activate_row, exponential_row,
      add_factors,  mix_rows,     score_rows,
      extent_of};
}

}  // namespace
}  // namespace pepnet
