// exp and sigmoid over vectors, written once for every instruction set. exp(x): x = n·ln 2 + r with |r| <=
// ln 2 / 2, a polynomial for e^r (Taylor up to r^7), times 2^n. docs/kernels.md has the errors, measured.
// Beyond ±104 exp is infinite or zero, as in IEEE arithmetic, and NaN stays NaN.
#pragma once

#include "dense/generic/panel.h"

namespace pepnet {
namespace {

// x = n·ln 2 + r.
struct Reduced {
  Vec n, r;
};

inline Reduced reduced(Vec x) {
  const Vec n = round_even(x * splat(1.44269504F));
  // ln 2 in two parts: the first has few enough bits that n times it is exact.
  const Vec r = fma(n, splat(-0.693359375F), x);
  return {n, fma(n, splat(2.12194440e-4F), r)};
}

// e^r for |r| <= ln 2 / 2 and little more.
inline Vec exp_of_rest(Vec r) {
  Vec p = splat(1.0F / 5040.0F);
  constexpr float kTaylor[] = {1.0F / 720.0F, 1.0F / 120.0F, 1.0F / 24.0F, 1.0F / 6.0F, 0.5F, 1.0F, 1.0F};
#pragma GCC unroll 8
  for (const float term : kTaylor) p = fma(p, r, splat(term));
  return p;
}

inline Vec exp(Vec x) {
  // The second operand of vmax and vmin is returned when one is NaN: that must be x.
  const Reduced parts = reduced(vmin(splat(104.0F), vmax(splat(-104.0F), x)));
  return times_power_of_two(exp_of_rest(parts.r), parts.n);
}

inline Vec sigmoid(Vec x) { return splat(1.0F) / (splat(1.0F) + exp(-x)); }

inline Vec relu(Vec x) { return vmax(splat(0.0F), x); }

}  // namespace
}  // namespace pepnet
