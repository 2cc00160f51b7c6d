// What time it is for a cache.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>

namespace pepnet::cache {

// Seconds that pass evenly, and Unix seconds. The wall clock is set: back by a day, when somebody had it
// wrong. What lasts for some time (that there is no such id, a deletion, a field's ttl) is counted on a clock
// that cannot be set; until when a row holds is said in Unix seconds, of which the time left is taken when
// the row comes.
class Clock {
 public:
  // Began as Unix seconds, so that intervals are those of the wall clock unless that is set.
  double now() const noexcept {
    const double manual = manual_.load(std::memory_order_relaxed);
    return manual == manual ? manual : begin_ + steady();
  }

  double unix_now() const noexcept {
    const double manual = manual_.load(std::memory_order_relaxed);
    return (manual == manual ? manual : wall()) + step_.load(std::memory_order_relaxed);
  }

  // Unix seconds less `now()`: 0 unless the wall clock was set, for less than what an expiry is kept to is
  // drift.
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
