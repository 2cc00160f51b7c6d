#include "network/columns.h"

#include <algorithm>
#include <utility>

namespace pepnet::network {
namespace {

// Adds the columns [begin, end) of `from`.
void append(Slices& to, const Slices& from, std::size_t begin, std::size_t end) {
  std::size_t at = 0;  // of the slice's first column within `from`
  for (const Slice& slice : from) {
    const std::size_t first = std::max(begin, at), last = std::min(end, at + slice.width());
    if (first < last) {
      const Slice part{slice.value, slice.group, slice.begin + (first - at), slice.begin + (last - at)};
      const bool continues = !to.empty() && to.back().value == part.value && to.back().group == part.group &&
                             to.back().end == part.begin;
      if (continues) {
        to.back().end = part.end;
      } else {
        to.push_back(part);
      }
    }
    at += slice.width();
    if (at >= end) return;
  }
}

}  // namespace

std::size_t width_of(const Slices& slices) {
  std::size_t width = 0;
  for (const Slice& slice : slices) width += slice.width();
  return width;
}

bool only_arranges(const Does& does) {
  return std::holds_alternative<Concat>(does) || std::holds_alternative<Stack>(does) ||
         std::holds_alternative<Split>(does) || std::holds_alternative<Flatten>(does) ||
         std::holds_alternative<Pick>(does);
}

Columns ColumnFinder::of(ValueId value, std::size_t group) {
  group = std::min(group, network_.shape(value).groups - 1);
  const auto known = known_.find({value, group});
  if (known != known_.end()) return known->second;
  return known_[{value, group}] = one(found(value, group));
}

Slices ColumnFinder::found(ValueId value, std::size_t group) {
  const std::size_t width = network_.shape(value).width;
  Slices slices;
  const Does* const does = value < kInputs ? nullptr : &network_.operations()[value - kInputs].does;
  if (does == nullptr || !only_arranges(*does) || made_.contains(value)) {
    slices.push_back({value, group, 0, width});
  } else if (const auto* const concat = std::get_if<Concat>(does)) {
    for (const Part& part : concat->of) append(slices, *of(part.from, group), part.begin, part.end);
  } else if (const auto* const stack = std::get_if<Stack>(does)) {
    for (const ValueId one : stack->of) {
      const std::size_t groups = network_.shape(one).groups;
      if (group < groups) return *of(one, group);
      group -= groups;
    }
  } else if (const auto* const split = std::get_if<Split>(does)) {
    append(slices, *of(split->x, 0), group * width, (group + 1) * width);
  } else if (const auto* const flatten = std::get_if<Flatten>(does)) {
    const Shape& x = network_.shape(flatten->x);
    for (std::size_t g = 0; g < x.groups; ++g) append(slices, *of(flatten->x, g), 0, x.width);
  } else {
    const auto& pick = std::get<Pick>(*does);
    return *of(pick.x, pick.groups[group]);
  }
  return slices;
}

}  // namespace pepnet::network
