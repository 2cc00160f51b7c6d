// A network as the products and row-wise operations that a lowering computes: what fits goes into the
// epilogues of products, and what only arranges is gone.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "network/columns.h"
#include "network/epilogue.h"
#include "network/network.h"

namespace pepnet::network {

// Where one group of a product finds its weights in its tensors, in elements.
struct WeightsPlace {
  std::size_t w = 0, b = 0;
};

// f(x·w + b) for each group, f being an activation or γσ.
struct Factor {
  std::string name;        // of the operation
  std::vector<Columns> x;  // by group; one if all read the same
  TensorName w, b;
  std::size_t in = 0, out = 0;       // of a group
  std::size_t stride = 0;            // elements of w from row to row
  std::vector<WeightsPlace> places;  // by group; one if all have the same
  Activation activation;
  std::size_t slope = 0;       // the first element of the activation's slope
  std::optional<float> gamma;  // γσ in the activation's place

  Epilogue epilogue() const;
  Columns x_of(std::size_t group) const { return x.size() == 1 ? x.front() : x[group]; }
  const WeightsPlace& place_of(std::size_t group) const {
    return places.size() == 1 ? places.front() : places[group];
  }
};

// main ⊙ gate + plus, or main ⊙ times + plus.
struct FusedProduct {
  Factor main;
  std::optional<Factor> gate;
  std::vector<Columns> times, plus;  // by group; one for all groups; or none
};

struct Node {
  std::string name;
  ValueId value;  // that it makes
  Shape shape;
  // A product, or the operation of the list that it is, whose operands are asked of `columns`.
  std::variant<FusedProduct, const Does*> does;
  std::vector<bool> live = {};  // by group: whether anybody reads it
};

enum class Operand : std::uint8_t { factor, logits, experts, other };

// One operand of a node.
struct Read {
  Operand as;
  std::vector<Columns> columns;  // by group of the node; one for all groups
  bool across = false;           // all of them are read for each group of the node
};

// One group of a value.
using Piece = std::pair<ValueId, std::size_t>;

struct FusedNetwork {
  std::vector<Node> nodes;    // each reads inputs and nodes before it
  std::vector<Shape> shapes;  // by value, also of those that the list has no name for
  std::unique_ptr<ColumnFinder> columns;
  std::map<Piece, std::size_t> scores;  // pieces that are but the argument of a score, and its column

  // The piece that the columns are, all of it.
  std::optional<Piece> whole_piece(Columns of) const;

  // By group; one if the value has one group, which stands for all.
  std::vector<Columns> operand(ValueId value, std::size_t groups) const;
  // Those of groups that nobody reads are empty.
  std::vector<Read> reads(const Node& node) const;
  ValueId add_value(const Shape& shape);

 private:
  std::vector<Read> all_reads(const Node& node) const;
};

// Says of every node which of its groups are read, by heads or by groups that are read.
void find_live_groups(const Network& network, FusedNetwork& fused);

// Finds the pieces that are nothing but the argument of a score.
void find_scores(const Network& network, FusedNetwork& fused);

// Operations whose values nobody reads are left out. `network` must outlive the result.
FusedNetwork fuse(const Network& network);

}  // namespace pepnet::network
