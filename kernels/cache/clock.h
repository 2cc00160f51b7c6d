// The clocks of a cache.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>

namespace pepnet::cache {

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
