// The activations of docs/network.md over vectors, written once for every instruction set. docs/kernels.md
// has their errors, measured, and says how one is added.
#pragma once

#include "dense/generic/math.h"

namespace pepnet {
namespace {

// e^x - 1 for |x| <= 44, and -1 below: 2^n·(e^r - 1) + (2^n - 1), of which neither cancels.
inline Vec expm1(Vec x) {
  x = vmax(splat(-104.0F), x);
  const Vec n = round_even(x * splat(1.44269504F));
  Vec r = fma(n, splat(-0.693359375F), x);
  r = fma(n, splat(2.12194440e-4F), r);
  Vec p = splat(1.0F / 5040.0F);
  constexpr float kTaylor[] = {1.0F / 720.0F, 1.0F / 120.0F, 1.0F / 24.0F, 1.0F / 6.0F, 0.5F};
#pragma GCC unroll 8
  for (const float term : kTaylor) p = fma(p, r, splat(term));
  p = fma(p * r, r, r);
  const Vec scale = times_power_of_two(splat(1.0F), n);
  return fma(scale, p, scale - splat(1.0F));
}

// log(1 + y) for 0 <= y <= 1: with s = y / (2 + y), at most 1/3, twice the series of the area tangent.
inline Vec log1p(Vec y) {
  const Vec s = y / (splat(2.0F) + y);
  const Vec squared = s * s;
  Vec p = splat(2.0F / 15.0F);
  constexpr float kSeries[] = {2.0F / 13.0F, 2.0F / 11.0F, 2.0F / 9.0F,
                               2.0F / 7.0F,  2.0F / 5.0F,  2.0F / 3.0F};
#pragma GCC unroll 8
  for (const float term : kSeries) p = fma(p, squared, splat(term));
  return fma(p * squared, s, s + s);
}

inline Vec magnitude(Vec x) { return vmax(x, -x); }

// 1 - Φ(x), the tail of the normal distribution, for x >= 0: exp(-x²/2) times a polynomial in u = 1 / (1 +
// 0.4 t), with t = x/√2, fitted to exp(t²)·erfc(t) / 2u with a relative error of 2e-8 up to t = 13.5, where
// float32 ends.
inline Vec normal_tail(Vec x) {
  const Vec u = splat(1.0F) / fma(splat(0.282842712F), x, splat(1.0F));
  Vec p = splat(0.5F * -0.0237808972F);
  constexpr float kFit[] = {0.166964083F, -0.427174292F, 0.453949673F, -0.208515791F, 0.232488667F,
                            0.142926303F, 0.212182971F,  0.225267902F, 0.225691398F};
#pragma GCC unroll 16
  for (const float term : kFit) p = fma(p, u, splat(0.5F * term));
  // x²/2 in two parts: the first is exact, for x's upper half has 12 bits; the second is small.
  const Vec upper = __builtin_bit_cast(Vec, __builtin_bit_cast(Bits, x) & 0xFFFFF000U);
  const Vec rest = splat(0.5F) * (x - upper) * (x + upper);
  return p * u * exp(splat(-0.5F) * upper * upper) *
         (splat(1.0F) - rest * (splat(1.0F) - splat(0.5F) * rest));
}

// Each takes x, the alpha of the call, and the slope of its column.
inline Vec f_identity(Vec x, Vec, Vec) { return x; }
inline Vec f_relu(Vec x, Vec, Vec) { return relu(x); }
inline Vec f_sigmoid(Vec x, Vec, Vec) { return sigmoid(x); }
// One of the two terms is zero. NaN comes from the first.
inline Vec f_leaky_relu(Vec x, Vec alpha, Vec) { return relu(x) + alpha * vmin(splat(0.0F), x); }
inline Vec f_prelu(Vec x, Vec, Vec slope) { return relu(x) + slope * vmin(splat(0.0F), x); }
inline Vec f_silu(Vec x, Vec, Vec) { return x * sigmoid(x); }
// expm1(2x) / (expm1(2x) + 2): 1 to float32's precision from 9.02 on.
inline Vec f_tanh(Vec x, Vec, Vec) {
  const Vec bounded = vmin(splat(10.0F), vmax(splat(-10.0F), x));
  const Vec e = expm1(bounded + bounded);
  return e / (e + splat(2.0F));
}
// x·Φ(x), by the tail of Φ on x's side: 1 + erf would cancel below zero.
inline Vec f_gelu(Vec x, Vec, Vec) {
  const Vec size =
      vmin(splat(20.0F), magnitude(x));  // beyond, the tail is zero, and infinity times it is none
  return relu(x) - size * normal_tail(size);
}
// ½(1 + tanh u) is σ(2u).
inline Vec f_gelu_tanh(Vec x, Vec, Vec) {
  const Vec u = fma(splat(0.044715F) * x * x, x, x);
  return x * sigmoid(splat(1.595769122F) * u);
}
inline Vec f_elu(Vec x, Vec alpha, Vec) { return relu(x) + alpha * expm1(vmin(splat(0.0F), x)); }
inline Vec f_selu(Vec x, Vec, Vec) {
  return splat(1.05070098F) * relu(x) + splat(1.75809934F) * expm1(vmin(splat(0.0F), x));
}
inline Vec f_hard_sigmoid(Vec x, Vec, Vec) {
  return vmin(splat(1.0F), vmax(splat(0.0F), fma(x, splat(1.0F / 6.0F), splat(0.5F))));
}
inline Vec f_softplus(Vec x, Vec, Vec) { return relu(x) + log1p(exp(-magnitude(x))); }

using Activate = void (*)(const float* x, const float* bias, std::size_t n, float alpha, const float* slope,
                          float* out);

// out = f(x + bias) for whole registers; bias and slope may be null.
template <Vec (*F)(Vec, Vec, Vec)>
void activate_with(const float* x, const float* bias, std::size_t n, float alpha, const float* slope,
                   float* out) {
  const Vec factor = splat(alpha);
  for (std::size_t i = 0; i < n; i += kLanes) {
    const std::size_t left = n - i;
    Vec v = load_up_to(x + i, left);
    if (bias != nullptr) v = v + load_up_to(bias + i, left);
    store(out + i, F(v, factor, slope == nullptr ? splat(0.0F) : load_up_to(slope + i, left)));
  }
}

struct ActivationEntry {
  network::Function function;
  Activate activate;
};
constexpr ActivationEntry kActivations[] = {
    {network::Function::identity, activate_with<f_identity>},
    {network::Function::relu, activate_with<f_relu>},
    {network::Function::sigmoid, activate_with<f_sigmoid>},
    {network::Function::leaky_relu, activate_with<f_leaky_relu>},
    {network::Function::prelu, activate_with<f_prelu>},
    {network::Function::silu, activate_with<f_silu>},
    {network::Function::tanh, activate_with<f_tanh>},
    {network::Function::gelu, activate_with<f_gelu>},
    {network::Function::gelu_tanh, activate_with<f_gelu_tanh>},
    {network::Function::elu, activate_with<f_elu>},
    {network::Function::selu, activate_with<f_selu>},
    {network::Function::hard_sigmoid, activate_with<f_hard_sigmoid>},
    {network::Function::softplus, activate_with<f_softplus>},
};

// The table is in the order of the functions' numbers.
constexpr bool in_order() {
  for (std::size_t i = 0; i < sizeof(kActivations) / sizeof(kActivations[0]); ++i)
    if (static_cast<std::size_t>(kActivations[i].function) != i) return false;
  return true;
}
static_assert(in_order());

inline Activate activate_of(network::Function function) {
  return kActivations[static_cast<std::size_t>(function)].activate;
}

inline void activate_row(network::Function function, const float* x, std::size_t n, float alpha,
                         const float* slope, float* out) {
  activate_of(function)(x, nullptr, n, alpha, slope, out);
}

inline void exponential_row(const float* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += kLanes) store(out + i, exp(load_up_to(x + i, n - i)));
}

}  // namespace
}  // namespace pepnet
