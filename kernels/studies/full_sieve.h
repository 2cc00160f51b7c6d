// SIEVE (Zhang et al., NSDI '24).
#pragma once

#include "studies/full_policy.h"

namespace pepnet::full {

// One queue in order of arrival. A hand goes from its tail to its head and round again: it takes the mark off
// entries that were used and evicts the first without one. Nothing moves when it is used.
class Sieve final : public Policy {
 public:
  explicit Sieve(Entries& entries) : entries_(entries), queue_(entries) {}

  void enter(Id id) noexcept override {
    entries_[id].frequency = 0;
    queue_.push(id);
  }
  void touch(Id id) noexcept override { entries_[id].frequency = 1; }
  void leave(Id id, bool) noexcept override {
    if (hand_ == id) hand_ = entries_[id].newer;
    queue_.remove(id);
  }
  Id victim(Group group) noexcept override;
  void clear() noexcept override {
    queue_ = Queue(entries_);
    hand_ = kNoId;
  }
  std::vector<Id> order() const override;

 private:
  Id oldest_of(Group group) const noexcept;

  Entries& entries_;
  Queue queue_;
  Id hand_ = kNoId;  // kNoId: at the tail
};

}  // namespace pepnet::full
