// When a row expires, in 16 bits, and the clocks by which it does.
//
//     bits 15..12  s: the unit is 2^s quarters of a second
//     bits 11..0   the deadline in units, rounded up, modulo 4096
//
// s is the smallest for which the time left is at most 1000 units, so that a deadline is kept to 0.2 % of the
// time that was left when it was set, or a quarter of a second. Reading a code needs a moment less than 2048
// units away from the deadline: `RowCache` looks through the codes of a region before the finest unit in it
// has passed 1024 times since it last did, seen from then, and removes what has expired: no row comes back to
// life. Code 0 is "never". The longest time left is 94 days; a row that asks for more expires early, which
// costs one question to the store.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>

namespace pepnet::cache {

class Expiry {
 public:
  static constexpr std::uint16_t kNeverCode = 0;
  static constexpr double kQuarter = 0.25;
  // A code is read from a moment up to kUnitsBetween before it was written, and the deadline is rounded up:
  // together they must stay below 2048 units.
  static constexpr double kUnitsLeft = 1000.0;
  static constexpr double kUnitsBetween = 1024.0;

  static constexpr double unit(unsigned scale) noexcept {
    return kQuarter * static_cast<double>(1U << scale);
  }
  static constexpr unsigned scale_of(std::uint16_t code) noexcept { return code >> 12; }

  static std::uint16_t encode(double expires, double now) noexcept {
    if (!(expires < kForever)) return kNeverCode;  // NaN too
    const double left = expires - now;
    unsigned scale = 0;
    while (scale < 15 && left > kUnitsLeft * unit(scale)) ++scale;
    const double present = std::floor(now / unit(scale));
    double count = std::ceil(expires / unit(scale));
    if (count - present > kUnitsLeft) count = present + kUnitsLeft;
    if (present - count > 1024.0) count = present;  // long past: expired now
    const auto low = static_cast<std::uint16_t>(static_cast<std::int64_t>(count) & 4095);
    const auto code = static_cast<std::uint16_t>((scale << 12) | low);
    return code == kNeverCode ? std::uint16_t{1} : code;
  }

  explicit Expiry(double now) noexcept : now_(now) {}

  bool expired(std::uint16_t code) const noexcept { return code != kNeverCode && distance(code) <= 0; }

  // Unix seconds, as far as the code knows.
  double deadline(std::uint16_t code) const noexcept {
    if (code == kNeverCode) return std::numeric_limits<double>::infinity();
    const double u = unit(scale_of(code));
    return (std::floor(now_ / u) + distance(code)) * u;
  }

 private:
  static constexpr double kForever = 1e17;

  // Units from now to the deadline.
  int distance(std::uint16_t code) const noexcept {
    const auto present = static_cast<std::int64_t>(std::floor(now_ / unit(scale_of(code)))) & 4095;
    const int ahead = static_cast<int>((code & 4095) - present) & 4095;
    return ahead >= 2048 ? ahead - 4096 : ahead;
  }

  double now_;
};

// A steady clock and Unix seconds. Durations (a negative entry, a tombstone, a field's ttl) are counted on
// the steady clock, because the wall clock may be set, by a day or more. Expiries come as Unix seconds; the
// time left is computed when the row comes.
class Clock {
 public:
  // Starts at the Unix time, so that intervals are those of the wall clock unless it is set.
  double now() const noexcept {
    const double manual = manual_.load(std::memory_order_relaxed);
    return manual == manual ? manual : begin_ + steady();
  }

  double unix_now() const noexcept {
    const double manual = manual_.load(std::memory_order_relaxed);
    return (manual == manual ? manual : wall()) + step_.load(std::memory_order_relaxed);
  }

  // Unix seconds minus `now()`. Less than the resolution of an expiry is drift and counts as 0.
  double ahead() const noexcept {
    const double by = unix_now() - now();
    return std::fabs(by) < 0.25 ? 0.0 : by;
  }

  // For tests and simulations: both are this from here on; NaN: the clocks' again.
  void set(double now) noexcept { manual_.store(now, std::memory_order_relaxed); }
  // For tests: the wall clock was set, by so many seconds in all.
  void step(double seconds) noexcept { step_.store(seconds, std::memory_order_relaxed); }

 private:
  static double wall() noexcept {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  static double steady() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  double begin_ = wall() - steady();
  std::atomic<double> manual_ = std::numeric_limits<double>::quiet_NaN();
  std::atomic<double> step_ = 0.0;
};

}  // namespace pepnet::cache
