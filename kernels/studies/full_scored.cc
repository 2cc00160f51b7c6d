#include "studies/full_scored.h"

#include <algorithm>

namespace pepnet::full {

std::vector<Id> Scored::order() const {
  std::vector<Id> ids;
  for (const ScoreHeap& heap : heaps_) ids.insert(ids.end(), heap.ids().begin(), heap.ids().end());
  std::sort(ids.begin(), ids.end(), [&](Id a, Id b) { return ScoresBefore{}(entries_[a], entries_[b]); });
  return ids;
}

}  // namespace pepnet::full
