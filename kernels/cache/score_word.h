// GSET's score as one 32-bit word that orders rows for ever after without being touched again: w of gset.h.
//
// A fixed-point number: 20 bits after the point are a relative step of 6.6e-7 in S, 11 before it are S from
// 2^-1000 to 2^1000 around the landmark n0. When λ·(n - n0) has grown by 512, n0 is moved and that much is
// taken off all words of a region; at 10 % a day that is once in nine years.
#pragma once

#include <cstdint>

#include "cache/gset.h"

namespace pepnet::cache {

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
