// The textbook LRU: a list in order of use and a map to its nodes. No lock: one thread.
#pragma once

#include <list>
#include <unordered_map>

#include "peer.h"

namespace pepnet::bench {

class ListLru final : public CachePeer {
 public:
  ListLru(std::size_t rows, std::size_t dim) : capacity_(rows), dim_(dim), arena_(rows, dim * sizeof(float)) {
    nodes_.reserve(rows);
  }

  void insert(const std::uint64_t* keys, const float* rows, std::size_t count) override {
    for (std::size_t i = 0; i < count; ++i)
      copy_row(place(keys[i]).row, rows + i * dim_, dim_ * sizeof(float));
  }

  std::size_t lookup(const std::uint64_t* keys, std::size_t count, float* out,
                     std::ptrdiff_t stride) override {
    std::size_t hits = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto found = nodes_.find(keys[i]);
      if (found == nodes_.end()) continue;
      order_.splice(order_.begin(), order_, found->second);
      copy_row(out + static_cast<std::ptrdiff_t>(i) * stride, found->second->row, dim_ * sizeof(float));
      ++hits;
    }
    return hits;
  }

  std::size_t size() const override { return nodes_.size(); }

 private:
  struct Node {
    std::uint64_t key;
    std::byte* row;
  };

  // The key's node at the front: its own, that of the key used longest ago, or a new one.
  Node& place(std::uint64_t key) {
    if (const auto found = nodes_.find(key); found != nodes_.end()) {
      order_.splice(order_.begin(), order_, found->second);
    } else if (nodes_.size() == capacity_) {
      nodes_.erase(order_.back().key);
      order_.splice(order_.begin(), order_, std::prev(order_.end()));
      order_.front().key = key;
      nodes_.emplace(key, order_.begin());
    } else {
      order_.push_front({key, arena_.slot(nodes_.size())});
      nodes_.emplace(key, order_.begin());
    }
    return order_.front();
  }

  std::size_t capacity_, dim_;
  Arena arena_;
  std::list<Node> order_;
  std::unordered_map<std::uint64_t, std::list<Node>::iterator> nodes_;
};

}  // namespace pepnet::bench
