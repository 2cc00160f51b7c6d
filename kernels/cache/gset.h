// GSET's score of an id (Kraken, SC '20, section 4.3): the one implementation of its recurrence in C++.
//
// Once per interval, S <- (1-β)·S + β·(r·c⁺ + c⁻), where c⁺ and c⁻ count the positive and negative samples
// that contain the id. In closed form, at interval n = floor(seconds / interval), S(n) = β · Σ_i c_i ·
// (1-β)^(n - n_i): every score decays by the same factor, so that only their ratios and the present matter.
// What is kept is
//
//     w = log2 S(n) + λ·(n - n0),   λ = -log2(1-β),
//
// which does not change while no sample is counted: the order of two rows stays exact with no sweep over the
// table
// ("forward decay", Cormode et al., ICDE 2009). n0, the landmark, is 0 in float64 (`studies`), and moves with
// time in the words of 32 bits of the cache that serves (score_word.h). pepnet_infer/rows/gset.py is the same
// in Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace pepnet::cache {

// log2(2^a + 2^b)
inline double log2_sum(double a, double b) noexcept {
  const double high = std::max(a, b), low = std::min(a, b);
  if (std::isinf(low)) return high;
  return high + std::log1p(std::exp2(low - high)) * 1.4426950408889634;
}

class Gset {
 public:
  static constexpr double kNothing = -std::numeric_limits<double>::infinity();  // w of a score of 0

  // interval: in the unit of `now`. Throws std::invalid_argument naming the one that is out of range.
  Gset(double beta, double r, double interval)
      : lambda_(-std::log2(1.0 - beta)),
        log2_beta_(std::log2(beta)),
        log2_beta_r_(std::log2(beta * r)),
        interval_(interval) {
    expect(beta > 0.0 && beta < 1.0, "beta: expected between 0 and 1", beta);
    expect(r > 0.0 && std::isfinite(r), "r: expected a number above 0", r);
    expect(interval > 0.0 && std::isfinite(interval), "interval: expected seconds above 0", interval);
  }

  double interval_of(double now) const noexcept { return std::floor(now / interval_); }
  // λ·(n - n0) of the interval n.
  double height_of(double interval, double landmark) const noexcept {
    return lambda_ * (interval - landmark);
  }
  double height(double now, double landmark = 0.0) const noexcept {
    return height_of(interval_of(now), landmark);
  }

  // w of a score, the score of a w, and w after one more sample, each at a height. An access counts as a
  // negative one.
  double of_score(double score, double height) const noexcept {
    return std::log2(std::max(0.0, score)) + height;
  }
  double score(double w, double height) const noexcept { return std::exp2(w - height); }
  double of_sample(bool positive, double height) const noexcept {
    return (positive ? log2_beta_r_ : log2_beta_) + height;
  }
  double with_sample(double w, bool positive, double height) const noexcept {
    return log2_sum(w, of_sample(positive, height));
  }

 private:
  static void expect(bool holds, const char* expected, double got) {
    if (!holds) throw std::invalid_argument(std::string(expected) + ", got " + std::to_string(got));
  }

  double lambda_, log2_beta_, log2_beta_r_, interval_;
};

}  // namespace pepnet::cache
