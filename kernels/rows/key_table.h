// Key → value: a hash table that is filled, searched and emptied by one thread.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "rows/key_index.h"

namespace pepnet {

// A power of two of places, at most half of them taken; linear probing; a removed key leaves no mark. No key
// is reserved: a place is free while its value is `Value{}`.
template <class Value>
class KeyTable {
 public:
  explicit KeyTable(std::uint64_t seed) : seed_(seed), places_(kFewest) {}

  std::size_t size() const noexcept { return size_; }
  // Room for `more` keys that are not there. What `find` has returned is no longer valid.
  void reserve(std::size_t more) {
    const std::size_t wanted = std::bit_ceil(2 * (size_ + more));
    if (wanted <= places_.size()) return;
    std::vector<Place> before(wanted);
    before.swap(places_);
    for (const Place& place : before) {
      if (place.value != Value{}) places_[place_of(place.key)] = place;
    }
  }

  // Value{} for a key that is not there.
  Value& find(std::uint64_t key) noexcept { return places_[place_of(key)].value; }
  // Sets the value of a key, for which there is room. `value` is not Value{}.
  void put(std::uint64_t key, const Value& value) noexcept {
    Place& place = places_[place_of(key)];
    size_ += place.value == Value{};
    place = {key, value};
  }
  // The key must be there. Later keys of the run move up where that brings them no nearer than their home.
  void erase(std::uint64_t key) noexcept {
    const std::size_t mask = places_.size() - 1;
    std::size_t hole = place_of(key);
    for (std::size_t next = (hole + 1) & mask; places_[next].value != Value{}; next = (next + 1) & mask) {
      if (((next - home(places_[next].key)) & mask) < ((next - hole) & mask)) continue;
      places_[hole] = places_[next];
      hole = next;
    }
    places_[hole] = {};
    --size_;
  }
  void clear() noexcept {
    std::ranges::fill(places_, Place{});
    size_ = 0;
  }

 private:
  static constexpr std::size_t kFewest = 64;
  struct Place {
    std::uint64_t key = 0;
    Value value{};
  };

  std::size_t home(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>(mix(key ^ seed_)) & (places_.size() - 1);
  }
  // Where the key is, or else the free place where it would go.
  std::size_t place_of(std::uint64_t key) const noexcept {
    std::size_t at = home(key);
    while (places_[at].value != Value{} && places_[at].key != key) at = (at + 1) & (places_.size() - 1);
    return at;
  }

  std::uint64_t seed_;
  std::vector<Place> places_;
  std::size_t size_ = 0;
};

}  // namespace pepnet
