// A region: up to 511 sets, their slots, and what a writer needs to change them. One lock a region.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "cache/epochs.h"
#include "cache/row_cache.h"
#include "cache/set_layout.h"

namespace pepnet::cache {

constexpr std::uint32_t kMaxSets = kMaxSlots / kWays;  // 511 sets, 4088 slots

// Counters are written under the region's lock and read at any time.
class Count {
 public:
  Count& operator++() noexcept { return *this += 1; }
  Count& operator+=(std::uint64_t more) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
    return *this;
  }
  Count& operator--() noexcept { return *this += ~std::uint64_t{0}; }
  void reset() noexcept { value_.store(0, std::memory_order_relaxed); }
  std::uint64_t read() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

using RegionCounts = EntryCounts<Count>;

struct alignas(2 * kCacheLine) Region {
  static constexpr std::uint32_t kLimbo = 64;

  struct RetiredSlot {
    std::uint64_t epoch;
    std::uint32_t slot;
  };

  // Read by readers that score accesses: the interval that order words count from.
  std::atomic<double> landmark{0.0};

  // The slot that the next row is probably written to, for prefetching.
  std::atomic<std::uint32_t> next_slot{0};

  std::mutex lock;
  // Everything below is the lock holder's.
  std::uint32_t slots = 0;           // as many as ways
  std::uint32_t limit = 0;           // entries at most: the slots less those kept for replacing rows
  std::uint32_t entries = 0;         // hot words that are not empty
  std::uint32_t fresh = 0;           // slots from here on were never used
  std::uint32_t free_size = 0;       // free slots at hand
  std::uint32_t free_head = kEmpty;  // more of them: a chain through the slots themselves
  std::uint32_t limbo_begin = 0, limbo_size = 0;
  std::uint32_t cursor = 0;  // where a victim is sought when the key's own sets are empty
  std::uint64_t floor = 0;   // the highest version that was evicted
  std::uint64_t random = 0;
  double known = 0.0;         // expiry codes are read as seen from here: see Expiry
  unsigned least_scale = 16;  // the finest unit of any expiry in the region
  RetiredSlot limbo[kLimbo] = {};
  std::uint16_t free[kLimbo] = {};
  RegionCounts counts;

  std::uint32_t next_random() noexcept {  // xorshift64*
    random ^= random >> 12;
    random ^= random << 25;
    random ^= random >> 27;
    return static_cast<std::uint32_t>((random * 0x2545'F491'4F6C'DD1D) >> 32);
  }
};

}  // namespace pepnet::cache
