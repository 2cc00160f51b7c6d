// What each node reads, and which groups of it are read by anybody: one expert of a layer may be all that is
// used.
#include "network/fused.h"

namespace pepnet::network {

std::vector<Read> FusedNetwork::reads(const Node& node) const {
  std::vector<Read> found = all_reads(node);
  const Columns none = columns->one({});
  for (Read& read : found) {
    if (read.across || read.columns.size() != node.shape.groups) continue;
    for (std::size_t g = 0; g < read.columns.size(); ++g)
      if (!node.live[g]) read.columns[g] = none;
  }
  return found;
}

std::vector<Read> FusedNetwork::all_reads(const Node& node) const {
  std::vector<Read> found;
  if (const auto* const product = std::get_if<FusedProduct>(&node.does)) {
    found.push_back({Operand::factor, product->main.x});
    if (product->gate) found.push_back({Operand::factor, product->gate->x});
    for (const auto* const factors : {&product->times, &product->plus})
      if (!factors->empty()) found.push_back({Operand::other, *factors});
    return found;
  }
  const Does& does = *std::get<const Does*>(node.does);
  const auto* const mix = std::get_if<Mix>(&does);
  const auto* const reduce = std::get_if<Reduce>(&does);
  const bool over_groups = std::holds_alternative<Fm>(does) || std::holds_alternative<Select>(does) ||
                           std::holds_alternative<Pairs>(does) || (reduce != nullptr && reduce->over_groups);
  for (const ValueId value : operands_of(does)) {
    const bool logits = mix != nullptr && value == mix->z && found.empty();
    const bool across = over_groups || (mix != nullptr && !logits);
    const Operand as = logits ? Operand::logits : mix != nullptr ? Operand::experts : Operand::other;
    found.push_back({as, operand(value, shapes[value].groups), across});
  }
  return found;
}

void find_live_groups(const Network& network, FusedNetwork& fused) {
  std::map<ValueId, Node*> made;
  for (Node& node : fused.nodes) {
    node.live.assign(node.shape.groups, false);
    made.emplace(node.value, &node);
  }
  const auto mark = [&](Columns columns) {
    for (const Slice& slice : *columns)
      if (slice.value >= kInputs) made.at(slice.value)->live[slice.group] = true;
  };
  for (const Head& head : network.heads()) {
    for (std::size_t g = 0; g < network.shape(head.of).groups; ++g) mark(fused.columns->of(head.of, g));
  }
  for (std::size_t i = fused.nodes.size(); i-- > 0;) {
    for (const Read& read : fused.reads(fused.nodes[i]))
      for (const Columns columns : read.columns) mark(columns);
  }
}

}  // namespace pepnet::network
