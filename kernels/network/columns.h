// What an operation reads once the operations that only arrange are looked through: columns of values that
// are computed, or of inputs.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "network/network.h"

namespace pepnet::network {

// Columns [begin, end) of one group of a value.
struct Slice {
  ValueId value;
  std::size_t group, begin, end;
  std::size_t width() const { return end - begin; }
  auto operator<=>(const Slice&) const = default;
};

// One after the other; neighbours of one group are one slice.
using Slices = std::vector<Slice>;
// Equal slices are one object, so that readers of the same columns are told by their pointers.
using Columns = const Slices*;

std::size_t width_of(const Slices& slices);

// Whether an operation only arranges the columns and groups of others: concat, stack, split, flatten, pick.
bool only_arranges(const Does& does);

// Finds, for any group of any value, the slices that it consists of.
class ColumnFinder {
 public:
  // `made`: values that are computed, though an operation that only arranges is what makes them.
  ColumnFinder(const Network& network, std::set<ValueId> made) : network_(network), made_(std::move(made)) {}

  // Of a value of one group, which stands for all groups of others, any `group` may be asked for.
  Columns of(ValueId value, std::size_t group);
  Columns one(Slices slices) { return &*all_.insert(std::move(slices)).first; }

 private:
  Slices found(ValueId value, std::size_t group);

  const Network& network_;
  const std::set<ValueId> made_;
  std::map<std::pair<ValueId, std::size_t>, Columns> known_;
  std::set<Slices> all_;
};

}  // namespace pepnet::network
