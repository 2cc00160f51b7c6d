#include "studies/full_sieve.h"

namespace pepnet::full {

Id Sieve::oldest_of(Group group) const noexcept {
  Id id = queue_.oldest();
  while (id != kNoId && entries_[id].group != group) id = entries_[id].newer;
  return id;
}

Id Sieve::victim(Group group) noexcept {
  if (queue_.size() == 0) return kNoId;
  if (group != kAnyGroup && oldest_of(group) == kNoId) return kNoId;
  Id id = hand_ == kNoId ? queue_.oldest() : hand_;
  for (;;) {
    Entry& entry = entries_[id];
    if (group == kAnyGroup || entry.group == group) {
      if (entry.frequency == 0) break;
      entry.frequency = 0;
    }
    id = entry.newer == kNoId ? queue_.oldest() : entry.newer;
  }
  // A group that makes room for itself takes its own marks off; the hand stays where all others expect it.
  if (group == kAnyGroup) hand_ = id;
  return id;
}

std::vector<Id> Sieve::order() const {
  std::vector<Id> ids;
  for (const int marked : {0, 1})
    for (Id id = queue_.oldest(); id != kNoId; id = entries_[id].newer)
      if (entries_[id].frequency == marked) ids.push_back(id);
  return ids;
}

}  // namespace pepnet::full
