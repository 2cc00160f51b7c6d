// The entry with the lowest score goes: gset and lfu, which differ in what counts.
#pragma once

#include "studies/full_heap.h"
#include "studies/full_policy.h"

namespace pepnet::full {

// A heap for each group, by forward-decayed score.
class Scored final : public Policy {
 public:
  Scored(Entries& entries, const std::vector<std::size_t>& quotas) : entries_(entries) {
    heaps_.reserve(quotas.size());
    for (const std::size_t quota : quotas) heaps_.emplace_back(entries, quota);
  }

  void enter(Id id) noexcept override { heap_of(id).push(id); }
  void touch(Id id) noexcept override { heap_of(id).moved(id); }
  void rescored(Id id) noexcept override { heap_of(id).moved(id); }
  void leave(Id id, bool) noexcept override { heap_of(id).remove(id); }
  Id victim(Group group) noexcept override {
    if (group != kAnyGroup) return heaps_[group].empty() ? kNoId : heaps_[group].first();
    Id lowest = kNoId;
    for (const ScoreHeap& heap : heaps_) {
      if (heap.empty()) continue;
      if (lowest == kNoId || ScoresBefore{}(entries_[heap.first()], entries_[lowest])) lowest = heap.first();
    }
    return lowest;
  }
  void clear() noexcept override {
    for (ScoreHeap& heap : heaps_) heap.clear();
  }
  std::vector<Id> order() const override;

  static std::size_t bytes(const std::vector<std::size_t>& quotas) noexcept {
    std::size_t total = sizeof(Scored);
    for (const std::size_t quota : quotas) total += sizeof(ScoreHeap) + quota * sizeof(Id);
    return total;
  }

 private:
  ScoreHeap& heap_of(Id id) noexcept { return heaps_[entries_[id].group]; }

  Entries& entries_;
  std::vector<ScoreHeap> heaps_;
};

}  // namespace pepnet::full
