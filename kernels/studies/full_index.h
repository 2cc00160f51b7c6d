// Key → place in an array, open addressing: what the fully associative cache finds its entries by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rows/key_index.h"
#include "studies/full_entry.h"

namespace pepnet::full {

// Two slots of 4 bytes for each key that may be there; linear probing; a removed key leaves no mark. The
// keys themselves stay with their owner: `key_of(id)`.
class Index {
 public:
  Index(std::size_t keys, std::uint64_t seed) : seed_(mix(seed + 1)), slots_(slots(keys), kNoId) {}

  static std::size_t bytes(std::size_t keys) noexcept { return slots(keys) * sizeof(Id); }

  template <class KeyOf>
  Id find(std::uint64_t key, const KeyOf& key_of) const noexcept {
    for (std::size_t slot = home(key);; slot = after(slot)) {
      const Id id = slots_[slot];
      if (id == kNoId || key_of(id) == key) return id;
    }
  }
  void insert(std::uint64_t key, Id id) noexcept {
    std::size_t slot = home(key);
    while (slots_[slot] != kNoId) slot = after(slot);
    slots_[slot] = id;
  }
  // The key must be there. Later keys of the run move up where that brings them no nearer than their home.
  template <class KeyOf>
  void erase(std::uint64_t key, const KeyOf& key_of) noexcept {
    std::size_t hole = home(key);
    while (key_of(slots_[hole]) != key) hole = after(hole);
    for (std::size_t slot = after(hole); slots_[slot] != kNoId; slot = after(slot)) {
      if (distance(home(key_of(slots_[slot])), slot) >= distance(hole, slot)) {
        slots_[hole] = slots_[slot];
        hole = slot;
      }
    }
    slots_[hole] = kNoId;
  }
  void clear() noexcept { slots_.assign(slots_.size(), kNoId); }

 private:
  static std::size_t slots(std::size_t keys) noexcept { return 2 * keys + 2; }
  std::size_t home(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>((uint128{mix(key ^ seed_)} * slots_.size()) >> 64);
  }
  std::size_t after(std::size_t slot) const noexcept { return slot + 1 == slots_.size() ? 0 : slot + 1; }
  std::size_t distance(std::size_t from, std::size_t to) const noexcept {
    return to >= from ? to - from : to + slots_.size() - from;
  }

  std::uint64_t seed_;
  std::vector<Id> slots_;
};

}  // namespace pepnet::full
