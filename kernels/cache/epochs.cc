#include "cache/epochs.h"

#include <sched.h>

#include <algorithm>

namespace pepnet::cache {
namespace {

// Threads are numbered as they come, so that a few threads use the first few places and writers look at few.
std::size_t thread_number() noexcept {
  static std::atomic<std::size_t> next{0};
  thread_local const std::size_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

}  // namespace

ReaderPlace* Epochs::enter() noexcept {
  std::size_t at = thread_number() % kPlaces;
  for (std::size_t tried = 0;; ++tried) {
    ReaderPlace& place = places_[at];
    std::uint64_t none = 0;
    // The value may be old when it is stored: then it only holds more slots back.
    if (place.epoch.compare_exchange_strong(none, epoch_.load(std::memory_order_seq_cst),
                                            std::memory_order_seq_cst)) {
      // A writer that has not seen this number grow published before it: the same argument as for the place.
      std::size_t used = used_.load(std::memory_order_seq_cst);
      while (used <= at && !used_.compare_exchange_weak(used, at + 1, std::memory_order_seq_cst)) {
      }
      return &place;
    }
    at = at + 1 == kPlaces ? 0 : at + 1;
    if (tried % kPlaces == kPlaces - 1) (void)sched_yield();  // more readers at once than there are places
  }
}

std::uint64_t Epochs::advance() noexcept {
  std::uint64_t oldest = epoch_.fetch_add(1, std::memory_order_seq_cst) + 1;
  const std::size_t used = used_.load(std::memory_order_seq_cst);
  for (std::size_t i = 0; i < used; ++i) {
    const std::uint64_t epoch = places_[i].epoch.load(std::memory_order_seq_cst);
    if (epoch != 0) oldest = std::min(oldest, epoch);
  }
  return oldest;
}

}  // namespace pepnet::cache
