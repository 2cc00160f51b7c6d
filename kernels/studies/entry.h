// What the exact cache keeps of one row, and queues of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "rows/slot_index.h"

namespace pepnet::studies {

using Id = SlotIndex::Place;  // of an entry: its place in the array of all entries
constexpr Id kNoId = SlotIndex::kNone;

struct Entry {
  std::uint64_t key = 0;
  float value = 0.0F;
  bool scored = false;       // its score came with it or by labels: accesses leave it alone
  double score = 0.0;        // log2, as `cache::Gset` keeps it; only where the policy scores
  std::uint64_t access = 0;  // running number of the last access: orders lru, and equal scores
  Id newer = kNoId;          // neighbours in the policy's queue
  Id older = kNoId;
  Id heap_place = kNoId;       // in the policy's heap
  std::uint8_t frequency = 0;  // sieve: visited; s3fifo: accesses, 3 at most
  bool in_main = false;        // s3fifo
};
using Entries = std::vector<Entry>;

// A queue threaded through nodes, which have `newer` and `older`; nothing is allocated.
template <class Node>
class Queue {
 public:
  explicit Queue(std::vector<Node>& nodes) noexcept : nodes_(nodes) {}

  Id oldest() const noexcept { return oldest_; }
  std::size_t size() const noexcept { return size_; }

  void push(Id id) noexcept {
    nodes_[id].newer = kNoId;
    nodes_[id].older = newest_;
    (newest_ == kNoId ? oldest_ : nodes_[newest_].newer) = id;
    newest_ = id;
    ++size_;
  }
  void remove(Id id) noexcept {
    const Node& node = nodes_[id];
    (node.newer == kNoId ? newest_ : nodes_[node.newer].older) = node.older;
    (node.older == kNoId ? oldest_ : nodes_[node.older].newer) = node.newer;
    --size_;
  }

 private:
  std::vector<Node>& nodes_;
  Id newest_ = kNoId;
  Id oldest_ = kNoId;
  std::size_t size_ = 0;
};

}  // namespace pepnet::studies
