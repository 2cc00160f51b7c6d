// S3-FIFO (Yang et al., SOSP '23).
#pragma once

#include <vector>

#include "studies/full_ghost.h"
#include "studies/full_policy.h"

namespace pepnet::full {

// New entries go to a small queue of a tenth of the cache; those used twice there move on to the main queue,
// others leave, and only their key is kept for as long as 0.9 caches of further keys. A key that comes back
// in that time goes to the main queue at once. There, the oldest entry is put back with one use less (of
// three that count at most), or goes if it has none. Sizes and thresholds are libCacheSim's.
class S3Fifo final : public Policy {
 public:
  S3Fifo(Entries& entries, std::uint64_t seed);

  void announce(std::uint64_t key) noexcept override { returns_ = ghost_.take(key); }
  void enter(Id id) noexcept override;
  void touch(Id id) noexcept override {
    Entry& entry = entries_[id];
    if (entry.frequency < kMostFrequency) ++entry.frequency;
  }
  void leave(Id id, bool evicted) noexcept override;
  Id victim(Group group) noexcept override;
  void clear() noexcept override;
  std::vector<Id> order() const override;

  static std::size_t bytes(std::size_t rows) noexcept { return sizeof(S3Fifo) + Ghost::bytes(ghosts(rows)); }

 private:
  static constexpr std::uint8_t kMostFrequency = 3;
  static constexpr std::uint8_t kToMain = 2;
  static std::size_t small(std::size_t rows) noexcept {
    return static_cast<std::size_t>(static_cast<double>(rows) * 0.10);
  }
  static std::size_t ghosts(std::size_t rows) noexcept {
    return static_cast<std::size_t>(static_cast<double>(rows) * 0.90);
  }
  Id main_victim() noexcept;
  Id victim_of(Group group) const noexcept;

  Entries& entries_;
  Queue small_, main_;
  Ghost ghost_;
  std::size_t small_rows_, main_rows_;
  bool evicted_ = false;  // anything so far
  bool returns_ = false;  // the key announced last was evicted lately
};

}  // namespace pepnet::full
