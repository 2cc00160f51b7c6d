// The least recently used entry goes.
#pragma once

#include "studies/full_policy.h"

namespace pepnet::full {

// A queue for each group, the one just used at its head; what is oldest of all is the oldest of one of them.
class Lru final : public Policy {
 public:
  Lru(Entries& entries, std::size_t groups) : entries_(entries), queues_(groups, Queue(entries)) {}

  void enter(Id id) noexcept override { queue_of(id).push(id); }
  void touch(Id id) noexcept override {
    queue_of(id).remove(id);
    queue_of(id).push(id);
  }
  void leave(Id id, bool) noexcept override { queue_of(id).remove(id); }
  Id victim(Group group) noexcept override {
    if (group != kAnyGroup) return queues_[group].oldest();
    Id oldest = kNoId;
    for (const Queue& queue : queues_) {
      const Id id = queue.oldest();
      if (id != kNoId && (oldest == kNoId || entries_[id].access < entries_[oldest].access)) oldest = id;
    }
    return oldest;
  }
  void clear() noexcept override {
    for (Queue& queue : queues_) queue = Queue(entries_);
  }
  std::vector<Id> order() const override;

  static std::size_t bytes(const std::vector<std::size_t>& quotas) noexcept {
    return sizeof(Lru) + quotas.size() * sizeof(Queue);
  }

 private:
  Queue& queue_of(Id id) noexcept { return queues_[entries_[id].group]; }

  Entries& entries_;
  std::vector<Queue> queues_;
};

}  // namespace pepnet::full
