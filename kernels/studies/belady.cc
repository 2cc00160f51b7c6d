#include "studies/belady.h"

#include <limits>
#include <vector>

#include "rows/slot_index.h"

namespace pepnet::studies {
namespace {

constexpr std::size_t kNever64 = std::numeric_limits<std::size_t>::max();

// A set of numbers below `size`: a bit each, and above 64 words of a level one word that says which are not
// empty. Adding, removing and finding the largest touch one word a level: four for 10 million.
class NumberSet {
 public:
  explicit NumberSet(std::size_t size) {
    do {
      size = size / 64 + 1;
      levels_.emplace_back(size);
    } while (size > 1);
  }
  void add(std::size_t number) noexcept {
    for (auto& level : levels_) {
      level[number / 64] |= bit(number);
      number /= 64;
    }
  }
  void remove(std::size_t number) noexcept {
    for (auto& level : levels_) {
      level[number / 64] &= ~bit(number);
      if (level[number / 64] != 0) break;
      number /= 64;
    }
  }
  std::size_t largest() const noexcept {  // the set must not be empty
    std::size_t number = 0;
    for (std::size_t l = levels_.size(); l-- > 0;)
      number = number * 64 + (63U - static_cast<unsigned>(__builtin_clzll(levels_[l][number])));
    return number;
  }

 private:
  static std::uint64_t bit(std::size_t number) noexcept { return std::uint64_t{1} << (number % 64); }

  std::vector<std::vector<std::uint64_t>> levels_;
};

// next[i]: where the key of access i comes again, kNever64 where it does not.
std::vector<std::size_t> next_accesses(const PackedArray<std::uint64_t>& keys) {
  std::vector<std::size_t> next(keys.size(), kNever64);
  SlotIndex which(keys.size(), 0);  // key → its number, which is the access that comes first from the end
  std::vector<std::size_t> latest(keys.size());  // by number: the access seen last
  for (std::size_t i = keys.size(); i-- > 0;) {
    const auto own = static_cast<SlotIndex::Place>(i);
    const SlotIndex::Place number =
        which.find_or_insert(keys[i], own, [&](auto place) { return keys[place]; });
    if (number != own) next[i] = latest[number];
    latest[number] = i;
  }
  return next;
}

}  // namespace

std::size_t belady(PackedArray<std::uint64_t> keys, std::size_t rows, bool* hits) {
  const std::vector<std::size_t> next = next_accesses(keys);
  // The cache is a set of accesses to come: a row is known by its next one. Rows without any are only
  // counted, and go first.
  NumberSet awaited(keys.size());
  std::vector<bool> held(keys.size());
  std::size_t size = 0, useless = 0, found = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const bool hit = held[i];
    if (hit) {
      awaited.remove(i);
      --size;
    } else if (size + useless == rows && rows != 0) {
      if (useless != 0) {
        --useless;
      } else {
        const std::size_t farthest = awaited.largest();
        awaited.remove(farthest);
        held[farthest] = false;
        --size;
      }
    }
    if (rows != 0) {
      if (next[i] == kNever64) {
        ++useless;
      } else {
        awaited.add(next[i]);
        held[next[i]] = true;
        ++size;
      }
    }
    if (hits != nullptr) hits[i] = hit;
    found += hit;
  }
  return found;
}

}  // namespace pepnet::studies
