// Which products are computed in float32 whatever the precision, and in which formats each value is read.
#include <algorithm>

#include "dense/lower.h"

namespace pepnet::engine {

using network::FusedProduct;
using network::Mix;

namespace {

const Mix* mix_of(const network::Node& node) {
  const auto* const does = std::get_if<const network::Does*>(&node.does);
  return does == nullptr ? nullptr : std::get_if<Mix>(*does);
}

}  // namespace

// Two kinds of small products whose errors weigh most stay in float32. What follows the last mix of experts
// is one: towers are 2 % of the work. The others matter with bf16 activations only, and `is_fine` has them.
void Lowering::find_precisions() {
  const std::size_t count = fused_.nodes.size();
  const auto is_mix = [&](std::size_t node) { return mix_of(fused_.nodes[node]) != nullptr; };
  std::vector<bool> below(count), above(count);
  for (std::size_t i = 0; i < count; ++i) {
    for (const auto& [reader, as] : readers_[fused_.nodes[i].value])
      if (reader != kHead && (below[i] || is_mix(i))) below[reader] = true;
  }
  for (std::size_t i = count; i-- > 0;) {
    for (const auto& [reader, as] : readers_[fused_.nodes[i].value])
      if (reader != kHead && (above[reader] || is_mix(reader))) above[i] = true;
  }
  for (std::size_t i = 0; i < count; ++i) {
    tail_.push_back((below[i] || is_mix(i)) && !above[i]);
    in_float32_.push_back(tail_.back() || is_fine(i));
  }
}

// The logits of a mix, and gates that several groups share: 4 % of the work and a quarter of bf16's error
// (the variance of scores). Beside AMX float32 is too slow for it.
bool Lowering::is_fine(std::size_t node) const {
  const auto* const product = std::get_if<FusedProduct>(&fused_.nodes[node].does);
  if (!rounded() || main_.isa == Isa::amx || product == nullptr) return false;
  const Node& one = fused_.nodes[node];
  std::size_t logits = 0, groups = 0, others = 0;
  for (const auto& [reader, as] : readers_.at(one.value)) {
    const bool by_product =
        reader != kHead && std::holds_alternative<FusedProduct>(fused_.nodes[reader].does);
    if (as == network::Operand::logits) {
      ++logits;
    } else if (by_product && fused_.nodes[reader].shape.groups > 1) {
      ++groups;
    } else {
      ++others;
    }
  }
  const auto computed = [](const std::vector<Columns>& all) {
    return std::ranges::all_of(all, [](Columns columns) {
      return std::ranges::all_of(*columns,
                                 [](const network::Slice& slice) { return slice.value >= network::kInputs; });
    });
  };
  if (others > 0) return false;
  if (logits > 0) return groups == 0 && computed(product->main.x);
  return product->main.gamma && one.shape.groups == 1 && !product->gate && computed(product->times);
}

void Lowering::use(const std::vector<Columns>& all, bool as_values) {
  for (const Columns columns : all) {
    for (const network::Slice& slice : *columns) {
      if (slice.value < network::kInputs) continue;
      Home& home = homes_[{slice.value, slice.group}];
      (as_values && rounded() ? home.reads_values : home.reads_floats) = true;
      home.feeds = home.feeds || as_values;
    }
  }
}

void Lowering::find_readers() {
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) node_of_.emplace(fused_.nodes[i].value, i);
  const auto note = [&](Columns columns, std::size_t reader, network::Operand as) {
    for (const network::Slice& slice : *columns) {
      auto& readers = readers_[slice.value];
      if (readers.empty() || readers.back() != std::pair{reader, as}) readers.emplace_back(reader, as);
    }
  };
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    for (const auto& read : fused_.reads(fused_.nodes[i]))
      for (const Columns columns : read.columns) note(columns, i, read.as);
  }
  for (const network::Head& head : network_.heads()) {
    for (std::size_t g = 0; g < network_.shape(head.of).groups; ++g)
      note(fused_.columns->of(head.of, g), kHead, network::Operand::other);
  }
}

void Lowering::find_uses() {
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    const Node& node = fused_.nodes[i];
    for (const auto& read : fused_.reads(node)) {
      const bool factor = read.as == network::Operand::factor;
      for (std::size_t g = 0; g < read.columns.size(); ++g)
        use({read.columns[g]}, factor && !in_float32_[i] && !fused_.scores.contains({node.value, 0}));
    }
  }
  for (const network::Head& head : network_.heads()) {
    for (std::size_t g = 0; g < network_.shape(head.of).groups; ++g)
      use({fused_.columns->of(head.of, g)}, false);
  }
}

}  // namespace pepnet::engine
