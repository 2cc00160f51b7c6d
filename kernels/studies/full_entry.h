// What the fully associative cache keeps of one entry, beside its row.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "cache/row_cache.h"

namespace pepnet::full {

using Id = std::uint32_t;  // of an entry: its place in the array of all
using Group = std::uint16_t;

constexpr Id kNoId = std::numeric_limits<Id>::max();
constexpr Group kAnyGroup = std::numeric_limits<Group>::max();

enum class Kind : std::uint8_t { kFree, kRow, kNegative, kTombstone };

struct Entry {
  std::uint64_t key = 0;
  std::uint64_t version = 0;
  double expires = kNever;
  double score = 0.0;        // forward-decayed: Decay; only where the policy scores
  std::uint64_t access = 0;  // running number of the last access: orders lru, and equal scores
  Id newer = kNoId;          // neighbours in the policy's queue
  Id older = kNoId;
  Id score_place = kNoId;  // in the policy's heap
  Id expiry_place = kNoId;
  Group group = 0;
  Kind kind = Kind::kFree;
  std::uint8_t frequency = 0;  // sieve: visited; s3fifo: accesses, 3 at most
  bool in_main = false;        // s3fifo
  bool high_priority = false;
  bool scored = false;
};

using Entries = std::vector<Entry>;

// A queue threaded through the entries; nothing is allocated.
class Queue {
 public:
  explicit Queue(Entries& entries) noexcept : entries_(&entries) {}

  Id newest() const noexcept { return newest_; }
  Id oldest() const noexcept { return oldest_; }
  std::size_t size() const noexcept { return size_; }

  void push(Id id) noexcept {
    Entry& entry = at(id);
    entry.newer = kNoId;
    entry.older = newest_;
    (newest_ == kNoId ? oldest_ : at(newest_).newer) = id;
    newest_ = id;
    ++size_;
  }
  void remove(Id id) noexcept {
    Entry& entry = at(id);
    (entry.newer == kNoId ? newest_ : at(entry.newer).older) = entry.older;
    (entry.older == kNoId ? oldest_ : at(entry.older).newer) = entry.newer;
    entry.newer = entry.older = kNoId;
    --size_;
  }

 private:
  Entry& at(Id id) noexcept { return (*entries_)[id]; }

  Entries* entries_;
  Id newest_ = kNoId;
  Id oldest_ = kNoId;
  std::size_t size_ = 0;
};

}  // namespace pepnet::full
