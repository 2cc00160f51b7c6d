// How a thread waits: it spins for a while, then sleeps in the kernel. std::atomic::wait is not used, because
// libstdc++'s spins and yields on its own account and shares its sleeping queues among unrelated atomics.
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

namespace pepnet::threads {

// Data that different threads write lie this far apart: two lines, because Intel's prefetcher fetches lines
// in pairs.
constexpr std::size_t kApart = 128;

inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// Calls `ready` until it is true, for about `limit` at most. Returns whether it was. After the first
// microseconds it offers its CPU to others in between: on a crowded machine the thread that is waited for may
// stand behind this one.
template <class Ready>
bool spin_until(Ready ready, std::chrono::nanoseconds limit) noexcept {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::microseconds kAlone{20};
  constexpr int kBetweenLooksAtTheClock = 16;
  Clock::time_point begin{};
  for (;;) {
    for (int i = 0; i < kBetweenLooksAtTheClock; ++i) {
      if (ready()) return true;
      pause();
    }
    const Clock::time_point now = Clock::now();
    if (begin == Clock::time_point{}) begin = now;
    if (now - begin >= limit) return ready();
    if (now - begin >= kAlone) (void)sched_yield();
  }
}

// Sleeps unless `word` is no longer `expected`; may also return for no reason.
inline void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) noexcept {
  static_assert(sizeof(word) == sizeof(std::uint32_t));
  (void)syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

inline void futex_wake(std::atomic<std::uint32_t>& word, int threads) noexcept {
  (void)syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
}

}  // namespace pepnet::threads
