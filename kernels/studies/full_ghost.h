// Keys that were evicted lately, without their rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "studies/full_index.h"

namespace pepnet::full {

// Holds a number of keys in order of arrival; the oldest makes room. One that is taken out frees its place.
class Ghost {
 public:
  Ghost(std::size_t most, std::uint64_t seed) : nodes_(most), index_(most, seed) { clear(); }

  // Whether the key was there; it is not any longer.
  bool take(std::uint64_t key) noexcept;
  void add(std::uint64_t key) noexcept;  // a key that is not there
  void clear() noexcept;

  static std::size_t bytes(std::size_t most) noexcept { return most * sizeof(Node) + Index::bytes(most); }

 private:
  struct Node {
    std::uint64_t key;
    Id newer, older;  // older also chains the free ones
  };
  auto key_of() const noexcept {
    return [this](Id id) { return nodes_[id].key; };
  }
  void free(Id id) noexcept;

  std::vector<Node> nodes_;
  Index index_;
  Id newest_ = kNoId, oldest_ = kNoId, free_ = kNoId;
};

}  // namespace pepnet::full
