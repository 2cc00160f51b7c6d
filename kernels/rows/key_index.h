// Key → position: a hash table built once over the keys of a table and then only read.
//
// Layout. One bucket is one cache line:
//
//     bytes 0..39    5 keys, uint64
//     bytes 40..59   their positions, uint32
//     bytes 60..61   how many of the 5 slots are taken, from the first
//     bytes 62..63   1 if a key whose home is this bucket, or an earlier one, had to move on to the next
//
// Keys lie in the bucket itself, so a lookup is one cache miss, and the file's keys are never read again.
// Slots are counted, not marked, so no key value is reserved: 0 and 2^64-1 are keys like any other. A full
// bucket spills into the next one; `spilled` tells a search that it may stop, so an absent key costs one
// bucket in 9 cases out of 10.
//
// The home bucket is the high half of mix(key)·buckets: any number of buckets is as good as a power of two,
// so the table never doubles just past a size. At 3.4 keys a bucket (load 0.68) it takes 19 bytes a key.
//
// Reading is const and touches no counter: any number of threads may search at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "cpu/prefetch.h"
#include "rows/rows.h"

namespace pepnet {

class KeyIndex {
 public:
  static constexpr std::int64_t kAbsent = -1;
  static constexpr std::size_t kMaxKeys = 0xFFFF'FFFF;

  // Throws std::invalid_argument where two positions hold the same key, std::length_error above kMaxKeys.
  // Keeps no reference to `keys`.
  explicit KeyIndex(PackedArray<std::uint64_t> keys);

  // Writes the position of every key, or kAbsent, to positions[0 .. keys.size()).
  void find(PackedArray<std::uint64_t> keys, std::int64_t* positions) const noexcept;

  std::size_t size() const noexcept { return size_; }
  std::size_t memory_bytes() const noexcept { return bytes_; }

  // The two halves of a search, for loops that do other work while the bucket is on its way: `home` says
  // where the search begins and asks for the line, `resolve` compares.
  std::size_t home(std::uint64_t key) const noexcept {
    const std::size_t bucket = home_of(key, seed_, buckets_);
    prefetch(table_.get() + bucket);
    return bucket;
  }
  std::int64_t resolve(std::uint64_t key, std::size_t bucket) const noexcept;

 private:
  static constexpr std::size_t kSlots = 5;

  struct alignas(kCacheLine) Bucket {
    std::uint64_t keys[kSlots];
    std::uint32_t positions[kSlots];
    std::uint16_t taken;
    std::uint16_t spilled;
  };
  static_assert(sizeof(Bucket) == kCacheLine);

  struct Free {
    void operator()(Bucket* table) const noexcept { std::free(table); }
  };

  static std::size_t home_of(std::uint64_t key, std::uint64_t seed, std::size_t buckets) noexcept;
  static int match(const Bucket& bucket, std::uint64_t key) noexcept;
  bool insert_all(PackedArray<std::uint64_t> keys);

  std::size_t size_;
  std::size_t buckets_;
  std::size_t bytes_;
  std::uint64_t seed_ = 0;
  std::unique_ptr<Bucket[], Free> table_;
};

// A bijection of 64 bits in which every input bit moves every output bit (the finaliser of SplitMix64,
// Steele, Lea and Flood, OOPSLA 2014). Ids are often 0, 1, 2, …: taken as they are they would fill a few
// buckets only.
inline std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xBF58'476D'1CE4'E5B9;
  x = (x ^ (x >> 27)) * 0x94D0'49BB'1331'11EB;
  return x ^ (x >> 31);
}

__extension__ typedef unsigned __int128 uint128;

inline std::size_t KeyIndex::home_of(std::uint64_t key, std::uint64_t seed, std::size_t buckets) noexcept {
  return static_cast<std::size_t>((uint128{mix(key ^ seed)} * buckets) >> 64);
}

// The slot that holds `key`, or -1. All five are compared without a branch: which slot it is cannot be
// predicted.
inline int KeyIndex::match(const Bucket& bucket, std::uint64_t key) noexcept {
  unsigned hits = 0;
  for (unsigned slot = 0; slot < kSlots; ++slot)
    hits |= static_cast<unsigned>(bucket.keys[slot] == key) << slot;
  hits &= (1U << bucket.taken) - 1U;
  return hits == 0 ? -1 : __builtin_ctz(hits);
}

inline std::int64_t KeyIndex::resolve(std::uint64_t key, std::size_t bucket) const noexcept {
  for (;;) {
    const Bucket& candidate = table_[bucket];
    const int slot = match(candidate, key);
    if (slot >= 0) return candidate.positions[slot];
    if (candidate.spilled == 0) return kAbsent;
    bucket = bucket + 1 == buckets_ ? 0 : bucket + 1;
  }
}

}  // namespace pepnet
