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

// A number in two parts, of which the second is small.
struct Sum {
  Vec first, second;
};

// The 12 leading bits: of two such numbers the product is exact.
inline Vec upper(Vec x) { return __builtin_bit_cast(Vec, __builtin_bit_cast(Bits, x) & 0xFFFFF000U); }

// Dekker (1971): the product, and what rounding took off it.
inline Sum exact_product(Vec a, Vec b) {
  const Vec p = a * b, ua = upper(a), ub = upper(b), la = a - ua, lb = b - ub;
  return {p, ((ua * ub - p) + ua * lb + la * ub) + la * lb};
}

// e^-x for x of 0 to 113. What it is multiplied with comes before the power of two: a product keeps all bits
// that a normal number has, although e^-x has none left.
class Decay {
 public:
  explicit Decay(Sum x) {
    const Reduced parts = reduced(-x.first);
    n_ = parts.n;
    p_ = exp_of_rest(parts.r - x.second);
  }
  Vec times(Vec y) const { return times_power_of_two(p_ * y, n_); }

 private:
  Vec n_, p_;
};

// |x|, no larger than `most`, from which on what is asked of it is zero. NaN stays.
inline Vec size_up_to(float most, Vec x) { return vmin(splat(most), magnitude(x)); }

// x·σ(±argument), the sign being that of x: the product vanishes below zero, and is x less that above. `size`
// is |x| and `argument` is positive.
inline Vec times_sigmoid(Vec x, Vec size, Sum argument) {
  const Decay decay(argument);
  return relu(x) - decay.times(size) / (splat(1.0F) + decay.times(splat(1.0F)));
}

// x·(1 - Φ(x)) for 0 <= x <= 15, which is x times e^(-x²/2) times a polynomial in (x - 2.5) / (x + 2.5)
// divided by x + 2.5: fitted with a relative error of 2e-8 to where float32 ends.
inline Vec times_normal_tail(Vec x) {
  const Vec q = x / (x + splat(2.5F)), z = q + q - splat(1.0F);
  Vec p = splat(-0.00017140308F);
  constexpr float kFit[] = {-0.000324695458F, 0.000703917525F, 0.00254115695F,
                            -0.00161058805F,  -0.0163934194F,  0.0092378296F,
                            0.131987989F,     -0.433692127F,   0.706656635F};
#pragma GCC unroll 16
  for (const float term : kFit) p = fma(p, z, splat(term));
  const Vec u = upper(x);
  return Decay({splat(0.5F) * u * u, splat(0.5F) * (x - u) * (x + u)}).times(q * p);
}

// Each takes x, the alpha of the call, and the slope of its column.
inline Vec f_identity(Vec x, Vec, Vec) { return x; }
inline Vec f_relu(Vec x, Vec, Vec) { return relu(x); }
inline Vec f_sigmoid(Vec x, Vec, Vec) { return sigmoid(x); }
// One of the two terms is zero. NaN comes from the first.
inline Vec f_leaky_relu(Vec x, Vec alpha, Vec) { return relu(x) + alpha * vmin(splat(0.0F), x); }
inline Vec f_prelu(Vec x, Vec, Vec slope) { return relu(x) + slope * vmin(splat(0.0F), x); }
inline Vec f_silu(Vec x, Vec, Vec) {
  const Vec size = size_up_to(112.0F, x);
  return times_sigmoid(x, size, {size, splat(0.0F)});
}
// expm1(2x) / (expm1(2x) + 2): 1 to float32's precision from 9.02 on.
inline Vec f_tanh(Vec x, Vec, Vec) {
  const Vec bounded = vmin(splat(10.0F), vmax(splat(-10.0F), x));
  const Vec e = expm1(bounded + bounded);
  return e / (e + splat(2.0F));
}
// x·Φ(x), by the tail of Φ on x's side: 1 + erf would cancel below zero.
inline Vec f_gelu(Vec x, Vec, Vec) { return relu(x) - times_normal_tail(size_up_to(14.9F, x)); }
// ½(1 + tanh u) is σ(2u), and 2u = 2√(2/π)·|x|·(1 + 0.044715 x²) is up to 88 where its rounding is seen: all
// of it is computed in two parts, the factors too.
inline Vec f_gelu_tanh(Vec x, Vec, Vec) {
  const Vec size = size_up_to(11.0F, x), cubic = splat(0.0713548139F), linear = splat(1.59576917F);
  const Sum square = exact_product(size, size);
  const Sum scaled = exact_product(cubic, square.first);
  const Vec sum = linear + scaled.first, back = sum - linear;
  const Vec lost = (linear - (sum - back)) + (scaled.first - back);
  const Vec rest =
      lost + scaled.second +
      fma(cubic, square.second, fma(splat(2.39883247e-09F), square.first, splat(-4.53406805e-08F)));
  const Sum argument = exact_product(size, sum);
  return times_sigmoid(x, size, {argument.first, fma(size, rest, argument.second)});
}
inline Vec f_elu(Vec x, Vec alpha, Vec) { return relu(x) + alpha * expm1(vmin(splat(0.0F), x)); }
inline Vec f_selu(Vec x, Vec, Vec) {
  return splat(1.05070098F) * relu(x) + splat(1.75809934F) * expm1(vmin(splat(0.0F), x));
}
inline Vec f_hard_sigmoid(Vec x, Vec, Vec) {
  return vmin(splat(1.0F), vmax(splat(0.0F), (x + splat(3.0F)) / splat(6.0F)));
}
inline Vec f_softplus(Vec x, Vec, Vec) { return relu(x) + log1p(exp(-magnitude(x))); }
// Its limit at -∞ is 0: -3 has the value already.
inline Vec f_hard_silu(Vec x, Vec alpha, Vec slope) {
  return vmax(splat(-3.0F), x) * f_hard_sigmoid(x, alpha, slope);
}

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

#define PEPNET_ACTIVATE(name, alpha, slope) activate_with<f_##name>,
constexpr Activate kActivations[] = {PEPNET_ACTIVATIONS(PEPNET_ACTIVATE)};  // by the function's number
#undef PEPNET_ACTIVATE

inline Activate activate_of(network::Function function) {
  return kActivations[static_cast<std::size_t>(function)];
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
