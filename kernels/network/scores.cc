// Layers one column wide that are nothing but the argument of a probability: a lowering computes each as a
// dot product in float32, and writes the score itself.
#include <algorithm>

#include "network/fused.h"

namespace pepnet::network {
namespace {

bool is_dot_product(const Node& node) {
  const auto* const product = std::get_if<FusedProduct>(&node.does);
  return product != nullptr && node.shape.width == 1 && !product->gate && product->times.empty() &&
         product->plus.empty() && !product->main.gamma &&
         product->main.activation.function == Function::identity;
}

}  // namespace

void find_scores(const Network& network, FusedNetwork& fused) {
  std::map<Piece, std::size_t> reads;  // how often
  const auto count = [&](Columns columns) {
    for (const Slice& slice : *columns) ++reads[{slice.value, slice.group}];
  };
  for (const Node& node : fused.nodes) {
    for (const Read& read : fused.reads(node))
      for (const Columns columns : read.columns) count(columns);
  }
  std::map<Piece, std::size_t> arguments;
  std::size_t column = 0;
  for (const Head& head : network.heads()) {
    const Shape& shape = network.shape(head.of);
    for (std::size_t g = 0; g < shape.groups; ++g) {
      const Columns columns = fused.columns->of(head.of, g);
      count(columns);
      std::size_t at = column + g * shape.width;
      for (const Slice& slice : *columns) {
        if (head.kind == HeadKind::probability && slice.width() == 1)
          arguments.try_emplace({slice.value, slice.group}, at);
        at += slice.width();
      }
    }
    column += shape.size();
  }
  // All groups of a layer are computed alike.
  for (const Node& node : fused.nodes) {
    if (!is_dot_product(node)) continue;
    std::map<Piece, std::size_t> found;
    for (std::size_t g = 0; g < node.shape.groups; ++g) {
      const Piece piece{node.value, g};
      if (arguments.contains(piece) && reads[piece] == 1) found.emplace(piece, arguments[piece]);
    }
    if (found.size() == node.shape.groups) fused.scores.merge(found);
  }
}

}  // namespace pepnet::network
