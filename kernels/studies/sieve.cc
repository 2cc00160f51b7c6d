// SIEVE (Zhang et al., NSDI '24): one queue in order of arrival. A hand goes from its tail to its head and
// round again: it takes the mark off entries that were used and evicts the first entry without a mark. No
// entry moves when it is used.
#include "studies/policy.h"

namespace pepnet::studies {
namespace {

class Sieve final : public Policy {
 public:
  explicit Sieve(Entries& entries) : entries_(entries), queue_(entries) {}

  void enter(Id id) noexcept override {
    entries_[id].frequency = 0;
    queue_.push(id);
  }
  void touch(Id id) noexcept override { entries_[id].frequency = 1; }
  Id evict() noexcept override {
    Id id = hand_ == kNoId ? queue_.oldest() : hand_;
    for (; entries_[id].frequency != 0;
         id = entries_[id].newer == kNoId ? queue_.oldest() : entries_[id].newer)
      entries_[id].frequency = 0;
    hand_ = entries_[id].newer;
    queue_.remove(id);
    return id;
  }

 private:
  Entries& entries_;
  Queue<Entry> queue_;
  Id hand_ = kNoId;  // kNoId: at the tail
};

}  // namespace

std::unique_ptr<Policy> make_sieve(Entries& entries) { return std::make_unique<Sieve>(entries); }

}  // namespace pepnet::studies
