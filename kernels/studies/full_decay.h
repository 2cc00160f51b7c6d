// GSET's score in double, forward-decayed.
#pragma once

#include <cmath>
#include <limits>

namespace pepnet::full {

// S <- (1-β)·S + β·(r·c⁺ + c⁻) once an interval (Kraken, SC '20) is S = Σ β·c·(1-β)^(n - n_c) with n the
// number of intervals so far. What is kept is log2 S + λ·n, λ = -log2(1-β): it changes only when something is
// added, and its order is that of S at any moment.
class Decay {
 public:
  Decay(double beta, double r, double interval) noexcept
      : beta_(beta), r_(r), interval_(interval), lambda_(-std::log2(1.0 - beta)) {}

  double of_score(double score, double now) const noexcept { return std::log2(score) + shift(now); }
  double score(double kept, double now) const noexcept { return std::exp2(kept - shift(now)); }

  double with_access(double kept, double now) const noexcept { return add(kept, beta_, now); }
  double with_sample(double kept, bool positive, double now) const noexcept {
    return add(kept, positive ? beta_ * r_ : beta_, now);
  }
  static constexpr double nothing() noexcept { return -std::numeric_limits<double>::infinity(); }

 private:
  double shift(double now) const noexcept { return lambda_ * std::floor(now / interval_); }
  // log2(2^a + 2^b), the larger one taken out first.
  double add(double kept, double what, double now) const noexcept {
    const double added = std::log2(what) + shift(now);
    const double high = std::fmax(kept, added), low = std::fmin(kept, added);
    return low == nothing() ? high : high + std::log1p(std::exp2(low - high)) / kLn2;
  }
  static constexpr double kLn2 = 0.693147180559945309417;

  double beta_, r_, interval_, lambda_;
};

}  // namespace pepnet::full
