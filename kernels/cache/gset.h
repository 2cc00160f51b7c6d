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
// table ("forward decay", Cormode et al., ICDE 2009). n0, the landmark, is 0 in float64 (`studies`), and
// moves with time in the words of 32 bits of the cache that serves. pepnet_infer/rows/gset.py is the same in
// Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace pepnet::cache {

// Throws std::invalid_argument: "beta: expected …, got …".
inline void expect(bool holds, const std::string& expected, double got) {
  if (!holds) throw std::invalid_argument(expected + ", got " + std::to_string(got));
}

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
  double lambda_, log2_beta_, log2_beta_r_, interval_;
};

// GSET's score as one 32-bit word that orders rows for ever after without being touched again. A fixed-point
// number: 20 bits after the point are a relative step of 6.6e-7 in S, 11 before it are S from 2^-1000 to
// 2^1000 around the landmark n0. When λ·(n - n0) has grown by 512, n0 is moved and that much is taken off all
// words of a region; at 10 % a day that is once in nine years.
class ScoreWord {
 public:
  static constexpr std::uint32_t kLowest = 0;  // S = 0

  // `x` is log2 of a score at the landmark's scale.
  static std::uint32_t encode(double x, std::uint32_t random) noexcept {
    if (!(x > kLeast)) return kLowest;  // NaN too
    const double scaled = (std::min(x, kMost) + kOffset) * kOne;
    const double floor = std::floor(scaled);
    // Rounded at random in proportion: a million small additions, each less than half a step, would otherwise
    // add up to nothing.
    const bool up = (scaled - floor) * 4294967296.0 > static_cast<double>(random);
    return static_cast<std::uint32_t>(floor) + (up ? 1U : 0U);
  }
  static double decode(std::uint32_t word) noexcept {
    return word == kLowest ? Gset::kNothing : static_cast<double>(word) / kOne - kOffset;
  }

  static constexpr double kOne = 1 << 20;
  static constexpr double kRebase = 512.0;  // how far heights may grow before the landmark is moved

 private:
  static constexpr double kOffset = 2048.0;
  static constexpr double kLeast = -2047.0;
  static constexpr double kMost = 2047.0;
};

// log2(1 + 2^-d) for d >= 0, from a table with a straight line between its points: off by less than 1e-4 of
// itself, and a tenth of the time. For accesses, which are counted while rows are looked up.
class Log2Sum {
 public:
  Log2Sum() noexcept {
    for (unsigned i = 0; i <= kPoints; ++i)
      table_[i] =
          static_cast<float>(std::log1p(std::exp2(-static_cast<double>(i) / kStep)) * 1.4426950408889634);
  }
  double operator()(double a, double b) const noexcept {
    const double high = std::max(a, b), distance = high - std::min(a, b);
    if (!(distance < kPoints / kStep)) return high;
    const double scaled = distance * kStep;
    const auto at = static_cast<unsigned>(scaled);
    const double low = static_cast<double>(table_[at]);
    return high + low + (static_cast<double>(table_[at + 1]) - low) * (scaled - at);
  }

 private:
  static constexpr unsigned kPoints = 1024;
  static constexpr double kStep = 32.0;
  float table_[kPoints + 1];
};

}  // namespace pepnet::cache
