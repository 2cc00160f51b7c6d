#include "studies/full_lru.h"

#include <algorithm>

namespace pepnet::full {

std::vector<Id> Lru::order() const {
  std::vector<Id> ids;
  for (const Queue& queue : queues_)
    for (Id id = queue.oldest(); id != kNoId; id = entries_[id].newer) ids.push_back(id);
  std::sort(ids.begin(), ids.end(), [&](Id a, Id b) { return entries_[a].access < entries_[b].access; });
  return ids;
}

}  // namespace pepnet::full
