// Places of groups at equal distances, which one launch may read and write together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "cuda/program.h"

namespace pepnet::cuda {

// Whether places go on as they began: at the same distance.
struct Progression {
  Place first;
  int step = 0;
  std::size_t count = 0;

  bool take(Place next) {
    if (count == 0) {
      first = next;
    } else if (next.buffer != first.buffer) {
      return false;
    } else if (count == 1) {
      step = next.column - first.column;
      if (step < 0) return false;
    } else if (next.column != first.column + static_cast<int>(count) * step) {
      return false;
    }
    ++count;
    return true;
  }
};

// Cuts [0, count) into runs for which every list of places is a progression. use(first, count).
template <class Use>
void each_run(const std::vector<std::vector<Place>>& lists, std::size_t count, std::size_t most,
              const Use& use) {
  for (std::size_t first = 0; first < count;) {
    std::vector<Progression> found(lists.size());
    std::size_t next = first;
    for (; next < count && next - first < most; ++next) {
      std::vector<Progression> longer = found;
      bool fits = true;
      for (std::size_t i = 0; i < lists.size(); ++i) fits = fits && longer[i].take(lists[i][next]);
      if (!fits) break;
      found = std::move(longer);
    }
    use(first, next - first);
    first = next;
  }
}

inline int step_of(const std::vector<Place>& places, std::size_t first, std::size_t count) {
  return count > 1 ? places[first + 1].column - places[first].column : 0;
}

inline GroupsPlace run_of(const std::vector<Place>& places, std::size_t first, std::size_t count) {
  if (places.empty()) return {};
  return {places[first], step_of(places, first, count)};
}

// That of the groups from `first` on.
inline GroupsPlace from_group(GroupsPlace place, std::size_t first) {
  place.at.column += static_cast<int>(first) * place.group;
  return place;
}

}  // namespace pepnet::cuda
