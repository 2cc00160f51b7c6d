// What becomes of small lists before they are lowered: which operations are merged into products, which
// columns a product reads, which groups are computed, and which products are scores.
#include <array>
#include <string>
#include <utility>

#include "check.h"
#include "network/fused.h"

namespace pepnet::test {
namespace {

using namespace network;

constexpr ValueId kGeneral = 0, kDomain = 1;

Product layer(ValueId x, std::size_t width, std::optional<std::size_t> groups = std::nullopt,
              Function function = Function::identity) {
  std::string w = std::to_string(x);
  w.append(".").append(std::to_string(width));
  return {x, std::move(w), "", width, groups, {function, 0.0F, ""}};
}

// A list over inputs of 8, 3 and 2 columns.
struct List {
  static constexpr std::array<std::size_t, kInputs> kWidths{8, 3, 2};
  Network network{kWidths};
  std::size_t next = 0;

  ValueId add(Does does) { return network.add(std::to_string(next++), std::move(does)); }
  FusedNetwork fused(ValueId of, HeadKind kind = HeadKind::identity) {
    network.add_head({of, kind});
    network.finish();
    return fuse(network);
  }
};

const FusedProduct& product(const FusedNetwork& fused, std::size_t node) {
  return std::get<FusedProduct>(fused.nodes.at(node).does);
}

bool is_product(const FusedNetwork& fused, std::size_t node) {
  return std::holds_alternative<FusedProduct>(fused.nodes.at(node).does);
}

void activations_and_gates_end_products() {
  List silu;
  const FusedNetwork one =
      silu.fused(silu.add(Activate{silu.add(layer(kGeneral, 4)), {Function::silu, 0.0F, ""}}));
  CHECK(one.nodes.size() == 1);
  CHECK(product(one, 0).main.activation.function == Function::silu);

  List gate;
  const FusedNetwork gated = gate.fused(gate.add(Gate{gate.add(layer(kGeneral, 4)), 1.5F}));
  CHECK(gated.nodes.size() == 1);
  CHECK(product(gated, 0).main.gamma == 1.5F);

  // A second activation has no room.
  List two;
  const ValueId relu = two.add(layer(kGeneral, 4, std::nullopt, Function::relu));
  const FusedNetwork both = two.fused(two.add(Activate{relu, {Function::tanh, 0.0F, ""}}));
  CHECK(both.nodes.size() == 2);
  CHECK(product(both, 0).main.activation.function == Function::relu);
  CHECK(!is_product(both, 1));

  // Somebody else reads the sum.
  List shared;
  const ValueId sum = shared.add(layer(kGeneral, 4));
  const ValueId active = shared.add(Activate{sum, {Function::tanh, 0.0F, ""}});
  const FusedNetwork apart = shared.fused(shared.add(Concat{{{sum, 0, 4}, {active, 0, 4}}}));
  CHECK(apart.nodes.size() == 2);
  CHECK(product(apart, 0).main.activation.function == Function::identity);
}

void multiplications_and_sums_end_products() {
  List list;
  const ValueId h = list.add(layer(kGeneral, 8, std::nullopt, Function::relu));
  const ValueId m = list.add(Multiply{kGeneral, h});
  const FusedNetwork fused = list.fused(list.add(Add{m, kGeneral}));
  CHECK(fused.nodes.size() == 1);
  CHECK(product(fused, 0).times.size() == 1);
  CHECK(product(fused, 0).plus.size() == 1);
  CHECK(product(fused, 0).times.front()->front() == (Slice{kGeneral, 0, 0, 8}));

  // One column that stands for all is none that a product reads beside its own.
  List broad;
  const ValueId column = broad.add(layer(kDomain, 1));
  const ValueId wide = broad.add(layer(kGeneral, 8));
  const FusedNetwork apart = broad.fused(broad.add(Multiply{wide, column}));
  CHECK(apart.nodes.size() == 3);
  CHECK(!is_product(apart, 2));
}

void a_gate_of_as_many_groups_is_computed_beside_its_layer() {
  List list;
  const ValueId h = list.add(layer(kGeneral, 5, 3, Function::relu));
  const ValueId g = list.add(Gate{list.add(layer(kDomain, 5, 3)), 2.0F});
  const FusedNetwork fused = list.fused(list.add(Multiply{g, h}));
  CHECK(fused.nodes.size() == 1);
  CHECK(product(fused, 0).gate.has_value());
  CHECK(product(fused, 0).main.activation.function == Function::relu);
  CHECK(product(fused, 0).gate->places.size() == 3);

  // A gate that all groups share is made once.
  List shared;
  const ValueId layers = shared.add(layer(kGeneral, 5, 3, Function::relu));
  const ValueId one = shared.add(Gate{shared.add(layer(kDomain, 5)), 2.0F});
  const FusedNetwork once = shared.fused(shared.add(Multiply{layers, one}));
  CHECK(once.nodes.size() == 2);
  CHECK(product(once, 0).main.gamma == 2.0F);
  CHECK(product(once, 1).times.size() == 1);

  // Groups that are the columns of one product, as a gate by group has them.
  List split;
  const ValueId experts = split.add(layer(kGeneral, 5, 3));
  const ValueId whole = split.add(Gate{split.add(layer(kDomain, 15)), 2.0F});
  const FusedNetwork cut = split.fused(split.add(Multiply{experts, split.add(Split{whole, 3})}));
  CHECK(cut.nodes.size() == 1);
  const Factor& gate = product(cut, 0).gate.value();
  CHECK(gate.out == 5 && gate.stride == 15);
  CHECK(gate.places.at(2).w == 10 && gate.places.at(2).b == 10);
}

void a_cross_layer_is_one_product_or_two() {
  List full;
  const FusedNetwork one = full.fused(full.add(Cross{kGeneral, kGeneral, "w", "b", "", 0}));
  CHECK(one.nodes.size() == 1);
  CHECK(product(one, 0).times.size() == 1 && product(one, 0).plus.size() == 1);

  List low;
  const FusedNetwork two = low.fused(low.add(Cross{kGeneral, kGeneral, "w", "", "u", 3}));
  CHECK(two.nodes.size() == 2);
  CHECK(product(two, 0).main.w == "u" && product(two, 0).main.out == 3);
  CHECK(product(two, 1).main.in == 3 && product(two, 1).main.out == 8);
}

void what_only_arranges_is_looked_through() {
  List list;
  const ValueId h = list.add(layer(kGeneral, 6));
  const ValueId groups = list.add(Split{h, 3});
  const ValueId some = list.add(Pick{groups, {2, 0}});
  const ValueId flat = list.add(Flatten{some});
  const ValueId x = list.add(Concat{{{kDomain, 1, 3}, {flat, 1, 4}, {kDomain, 0, 1}}});
  const FusedNetwork fused = list.fused(list.add(layer(x, 4)));
  CHECK(fused.nodes.size() == 2);
  const Slices& columns = *product(fused, 1).main.x.front();
  CHECK(columns == (Slices{{kDomain, 0, 1, 3}, {h, 0, 5, 6}, {h, 0, 0, 2}, {kDomain, 0, 0, 1}}));
  // Neighbours are one piece again.
  CHECK(*fused.columns->of(list.add(Flatten{groups}), 0) == (Slices{{h, 0, 0, 6}}));
}

void only_what_is_read_is_computed() {
  List list;
  const ValueId experts = list.add(layer(kGeneral, 4, 3));
  const ValueId deeper = list.add(layer(experts, 4, 3));
  list.add(layer(deeper, 9));  // nobody reads it
  const FusedNetwork fused = list.fused(list.add(Pick{deeper, {1}}));
  CHECK(fused.nodes.size() == 2);
  for (const Node& node : fused.nodes) CHECK(node.live == (std::vector<bool>{false, true, false}));
  CHECK(fused.reads(fused.nodes[1]).front().columns[0]->empty());
  CHECK(fused.reads(fused.nodes[1]).front().columns[1]->size() == 1);
}

void arguments_of_probabilities_are_scores() {
  List list;
  const ValueId h = list.add(layer(kGeneral, 4, 2, Function::relu));
  const ValueId y = list.add(layer(h, 1, 2));
  FusedNetwork fused = list.fused(y, HeadKind::probability);
  CHECK(fused.scores.size() == 2);
  CHECK(fused.scores.at({y, 1}) == 1);

  List other;  // the value itself is asked for
  const FusedNetwork identity = other.fused(other.add(layer(kGeneral, 1)));
  CHECK(identity.scores.empty());

  List twice;
  const ValueId both = twice.add(layer(kGeneral, 1));
  twice.network.add_head({both, HeadKind::exp});
  CHECK(twice.fused(both, HeadKind::probability).scores.empty());
}

}  // namespace

void network() {
  activations_and_gates_end_products();
  multiplications_and_sums_end_products();
  a_gate_of_as_many_groups_is_computed_beside_its_layer();
  a_cross_layer_is_one_product_or_two();
  what_only_arranges_is_looked_through();
  only_what_is_read_is_computed();
  arguments_of_probabilities_are_scores();
}

}  // namespace pepnet::test
