// Key → place in an array that somebody else owns: a hash table that is filled, searched and emptied by one
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "rows/key_index.h"

namespace pepnet {

// Two slots of 4 bytes for each key that may be in it; linear probing; a removed key leaves no mark. The keys
// themselves stay with their owner: `key_of(place)`.
class SlotIndex {
 public:
  using Place = std::uint32_t;
  static constexpr Place kNone = ~Place{0};

  SlotIndex(std::size_t most_keys, std::uint64_t seed)
      : seed_(mix(seed + 1)), slots_(2 * most_keys + 2, kNone) {}

  template <class KeyOf>
  Place find(std::uint64_t key, const KeyOf& key_of) const noexcept {
    return slots_[slot_of(key, key_of)];
  }
  // The place of the key, which is `place` from here on if the key was not in the table.
  template <class KeyOf>
  Place find_or_insert(std::uint64_t key, Place place, const KeyOf& key_of) noexcept {
    Place& slot = slots_[slot_of(key, key_of)];
    if (slot == kNone) slot = place;
    return slot;
  }
  // The key must be in the table. Later keys of the run move up where that brings them no nearer than their
  // home.
  template <class KeyOf>
  void erase(std::uint64_t key, const KeyOf& key_of) noexcept {
    std::size_t hole = slot_of(key, key_of);
    for (std::size_t slot = after(hole); slots_[slot] != kNone; slot = after(slot)) {
      if (distance(home(key_of(slots_[slot])), slot) >= distance(hole, slot)) {
        slots_[hole] = slots_[slot];
        hole = slot;
      }
    }
    slots_[hole] = kNone;
  }

 private:
  // Where the key is, or else the empty slot where it would go.
  template <class KeyOf>
  std::size_t slot_of(std::uint64_t key, const KeyOf& key_of) const noexcept {
    std::size_t slot = home(key);
    while (slots_[slot] != kNone && key_of(slots_[slot]) != key) slot = after(slot);
    return slot;
  }
  std::size_t home(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>((uint128{mix(key ^ seed_)} * slots_.size()) >> 64);
  }
  std::size_t after(std::size_t slot) const noexcept { return slot + 1 == slots_.size() ? 0 : slot + 1; }
  std::size_t distance(std::size_t from, std::size_t to) const noexcept {
    return to >= from ? to - from : to + slots_.size() - from;
  }

  std::uint64_t seed_;
  std::vector<Place> slots_;
};

}  // namespace pepnet
