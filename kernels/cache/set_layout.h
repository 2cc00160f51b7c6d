// What lies in the memory of a cache: sets, slots and regions. See docs/cache.md for the picture.
//
//     set, one cache line
//         8 hot words     tag 16 | flags 4 | slot 12: all that a search compares, and where the row is
//         8 order words   what the policy keeps of a way; written by readers
//     slot, 16 bytes + row, in the same region
//         bytes 0..7    key rest 48 | expiry 16
//         bytes 8..15   version
//         bytes 16..    the row
//
// A hot word is published by one atomic store. The slot behind it was written before and is never written
// again until every reader that could have seen the word has left.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "cache/cache_types.h"
#include "cpu/prefetch.h"

#if defined(__SANITIZE_THREAD__)
#define PEPNET_CACHE_WATCHED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PEPNET_CACHE_WATCHED 1
#endif
#endif

namespace pepnet::cache {

constexpr std::uint32_t kWays = 8;

// Of a hot word.
constexpr std::uint32_t kTagBits = 0xFFFF'0000;
constexpr std::uint32_t kNoRow = 0x8000;     // negative entry or tombstone
constexpr std::uint32_t kScored = 0x4000;    // its score came with it: accesses leave it alone
constexpr std::uint32_t kPriority = 0x2000;  // with kNoRow: a tombstone
constexpr std::uint32_t kExpires = 0x1000;
constexpr std::uint32_t kSlotBits = 0x0FFF;
constexpr std::uint32_t kEmpty = kSlotBits;  // no slot has this number
constexpr std::uint32_t kMaxSlots = kSlotBits;

// Of order words in sieve and s3fifo: when the row came, and what was seen since.
constexpr std::uint32_t kVisited = 0x8000'0000;  // sieve
constexpr std::uint32_t kHand = 0x4000'0000;     // sieve: where the next search begins
constexpr std::uint32_t kSieveAge = 0x3FFF'FFFF;
constexpr std::uint32_t kFrequency = 0xC000'0000;  // s3fifo
constexpr std::uint32_t kOnce = 0x4000'0000;
constexpr std::uint32_t kMain = 0x2000'0000;
constexpr std::uint32_t kQueueAge = 0x1FFF'FFFF;

constexpr bool is_empty(std::uint32_t word) noexcept { return (word & kSlotBits) == kEmpty; }
constexpr bool has_row(std::uint32_t word) noexcept { return (word & kNoRow) == 0 && !is_empty(word); }
constexpr bool is_tombstone(std::uint32_t word) noexcept {
  return (word & (kNoRow | kPriority)) == (kNoRow | kPriority) && !is_empty(word);
}
constexpr bool is_negative(std::uint32_t word) noexcept {
  return (word & (kNoRow | kPriority)) == kNoRow && !is_empty(word);
}

// The low 16 bits of a mixed key, where a hot word has them.
constexpr std::uint32_t tag_of(std::uint64_t hash) noexcept { return static_cast<std::uint32_t>(hash << 16); }

struct alignas(kCacheLine) Set {
  std::atomic<std::uint32_t> hot[kWays];
  std::atomic<std::uint32_t> order[kWays];

  // Ways whose tag is `tag` (in the upper half), a bit each. Only a hint: whoever goes on loads the word
  // itself.
  unsigned matches(std::uint32_t tag) const noexcept {
#if defined(__SSE2__) && !defined(PEPNET_CACHE_WATCHED)
    // Tags are compared where they lie: equal upper halves differ in the lower half only.
    const __m128i wanted = _mm_set1_epi32(static_cast<int>(tag));
    const __m128i upper = _mm_set1_epi32(static_cast<int>(kTagBits));
    const auto* line = reinterpret_cast<const __m128i*>(hot);
    const auto same = [&](int part) {
      return _mm_cmpeq_epi32(_mm_and_si128(_mm_load_si128(line + part), upper), wanted);
    };
    const __m128i both = _mm_packs_epi32(same(0), same(1));
    return static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(both, _mm_setzero_si128())));
#else
    unsigned found = 0;
    for (unsigned way = 0; way < kWays; ++way) {
      const std::uint32_t word = hot[way].load(std::memory_order_relaxed);
      found |= static_cast<unsigned>((word & kTagBits) == tag) << way;
    }
    return found;
#endif
  }
};
static_assert(sizeof(Set) == kCacheLine);

// Of two sets the way whose order word, as counted from `base`, is the smallest, and all their flags.
struct Least {
  std::uint64_t rank = ~std::uint64_t{0};  // word 32 | set 1 | way 3; all ones: both are empty
  std::uint32_t flags = 0;

  unsigned set() const noexcept { return static_cast<unsigned>(rank >> 3) & 1; }
  unsigned way() const noexcept { return static_cast<unsigned>(rank) & 7; }
  bool any() const noexcept { return rank != ~std::uint64_t{0}; }
};

inline Least least_of(const Set& first, const Set& second, std::uint32_t base) noexcept {
  Least least;
  const auto look = [&](const Set& set, std::uint64_t number) noexcept {
#pragma GCC unroll 8
    for (std::uint64_t way = 0; way < kWays; ++way) {
      const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed);
      const std::uint32_t value = set.order[way].load(std::memory_order_relaxed) - base;
      const std::uint64_t empty = is_empty(word) ? ~std::uint64_t{0} : 0;
      least.rank = std::min(least.rank, (std::uint64_t{value} << 4 | number | way) | empty);
      least.flags |= word;
    }
  };
  look(first, 0);
  look(second, kWays);
  return least;
}
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

// What stands before a row.
struct SlotHeader {
  std::uint64_t key_and_expiry;
  std::uint64_t version;

  std::uint64_t rest() const noexcept { return key_and_expiry >> 16; }
  std::uint16_t expiry() const noexcept { return static_cast<std::uint16_t>(key_and_expiry); }
};
static_assert(sizeof(SlotHeader) == 16);

inline SlotHeader load_header(const std::byte* slot) noexcept {
  SlotHeader header;
  std::memcpy(&header, slot, sizeof header);
  return header;
}
inline const std::byte* row_of(const std::byte* slot) noexcept { return slot + sizeof(SlotHeader); }
inline std::byte* row_of(std::byte* slot) noexcept { return slot + sizeof(SlotHeader); }

constexpr std::uint32_t kMaxSets = kMaxSlots / kWays;  // 511 sets, 4088 slots

// Counters are written under the region's lock and read at any time.
class Count {
 public:
  Count& operator++() noexcept { return *this += 1; }
  Count& operator+=(std::uint64_t more) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
    return *this;
  }
  void reset() noexcept { value_.store(0, std::memory_order_relaxed); }
  std::uint64_t read() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

using RegionCounts = EntryCounts<Count>;

// Up to 511 sets, their slots, and what a writer needs to change them. One lock a region.
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
