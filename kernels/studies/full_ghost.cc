#include "studies/full_ghost.h"

namespace pepnet::full {

bool Ghost::take(std::uint64_t key) noexcept {
  const Id id = index_.find(key, key_of());
  if (id == kNoId) return false;
  free(id);
  return true;
}

void Ghost::add(std::uint64_t key) noexcept {
  if (nodes_.empty()) return;
  if (free_ == kNoId) free(oldest_);
  const Id id = free_;
  Node& node = nodes_[id];
  free_ = node.older;
  node = {key, kNoId, newest_};
  (newest_ == kNoId ? oldest_ : nodes_[newest_].newer) = id;
  newest_ = id;
  index_.insert(key, id);
}

void Ghost::free(Id id) noexcept {
  Node& node = nodes_[id];
  index_.erase(node.key, key_of());
  (node.newer == kNoId ? newest_ : nodes_[node.newer].older) = node.older;
  (node.older == kNoId ? oldest_ : nodes_[node.older].newer) = node.newer;
  node.older = free_;
  free_ = id;
}

void Ghost::clear() noexcept {
  index_.clear();
  newest_ = oldest_ = free_ = kNoId;
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    nodes_[i].older = free_;
    free_ = static_cast<Id>(i);
  }
}

}  // namespace pepnet::full
