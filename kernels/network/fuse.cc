// How operations are put into the epilogues of products. Each rule asks that nobody else reads what it
// merges.
#include <algorithm>
#include <map>
#include <utility>

#include "network/fused.h"

namespace pepnet::network {
namespace {

// A product under construction: the value that it makes, so far, is that of the last operation put into it.
struct Draft {
  const Operation* product = nullptr;
  std::size_t groups = 1;  // of the result
  bool cut = false;        // columns of one product are the groups
  Activation activation;
  std::optional<float> gamma;
  std::optional<ValueId> times, plus;
  std::unique_ptr<Draft> gate;
  bool plain() const { return activation.function == Function::identity && !gamma && !multiplied() && !plus; }
  bool multiplied() const { return times || gate; }
};

class Fuser {
 public:
  explicit Fuser(const Network& network)
      : network_(network), readers_(kInputs + network.operations().size()) {}

  FusedNetwork fuse() {
    find_readers();
    for (std::size_t i = 0; i < network_.operations().size(); ++i) {
      const auto value = static_cast<ValueId>(kInputs + i);
      if (!readers_[value].empty()) merge(value, network_.operations()[i]);
    }
    return finish();
  }

 private:
  static constexpr ValueId kHead = ~ValueId{0};

  // Readers of values that somebody reads: an operation that nobody reads does not count as one.
  void find_readers() {
    for (const Head& head : network_.heads()) readers_[head.of].push_back(kHead);
    for (std::size_t i = network_.operations().size(); i-- > 0;) {
      const auto value = static_cast<ValueId>(kInputs + i);
      if (readers_[value].empty()) continue;
      for (const ValueId operand : operands_of(network_.operations()[i].does))
        readers_[operand].push_back(value);
    }
  }

  bool is_read(ValueId value) const { return !readers_[value].empty(); }
  bool sole(ValueId value) const { return readers_[value].size() == 1; }
  const Does& does_of(ValueId value) const { return network_.operations()[value - kInputs].does; }
  Draft* draft_of(ValueId value) {
    const auto it = drafts_.find(value);
    return it == drafts_.end() ? nullptr : &it->second;
  }
  // The draft of a value, if nothing but one operation reads it.
  Draft* mergeable(ValueId value) { return sole(value) ? draft_of(value) : nullptr; }

  void move(ValueId from, ValueId to) {
    gone_.insert(from);
    auto node = drafts_.extract(from);
    node.key() = to;
    drafts_.insert(std::move(node));
  }

  void merge(ValueId value, const Operation& operation) {
    if (const auto* const product = std::get_if<Product>(&operation.does)) {
      Draft draft;
      draft.product = &operation;
      draft.groups = operation.shape.groups;
      draft.activation = product->activation;
      drafts_.emplace(value, std::move(draft));
    } else if (const auto* const activate = std::get_if<Activate>(&operation.does)) {
      if (Draft* const draft = mergeable(activate->x); draft != nullptr && draft->plain() && !draft->cut) {
        draft->activation = activate->activation;
        move(activate->x, value);
      }
    } else if (const auto* const gate = std::get_if<Gate>(&operation.does)) {
      if (Draft* const draft = mergeable(gate->x); draft != nullptr && draft->plain()) {
        draft->gamma = gate->gamma;
        move(gate->x, value);
      }
    } else if (const auto* const split = std::get_if<Split>(&operation.does)) {
      if (Draft* const draft = mergeable(split->x);
          draft != nullptr && can_be_cut(*draft) && only_multiplied(value)) {
        draft->cut = true;
        draft->groups = split->groups;
        move(split->x, value);
      }
    } else if (const auto* const multiply = std::get_if<Multiply>(&operation.does)) {
      merge_multiply(value, operation.shape, multiply->x, multiply->y);
    } else if (const auto* const add = std::get_if<Add>(&operation.does)) {
      merge_add(value, operation.shape, add->x, add->y);
    }
  }

  // Its columns become groups: those of a slope would have to be cut as well.
  static bool can_be_cut(const Draft& draft) {
    return draft.groups == 1 && !draft.multiplied() && !draft.plus && draft.activation.slope.empty();
  }

  // Whether all that becomes of a value is that others are multiplied with it, at once or after γσ.
  bool only_multiplied(ValueId value) const {
    return std::ranges::all_of(readers_[value], [&](ValueId reader) {
      if (reader == kHead) return false;
      if (std::holds_alternative<Multiply>(does_of(reader))) return true;
      return std::holds_alternative<Gate>(does_of(reader)) && only_multiplied(reader);
    });
  }

  // x ⊙ y goes into the product that makes one of them. If the other is γσ of a product over as many groups,
  // both are computed at once and that one is never stored.
  void merge_multiply(ValueId value, const Shape& shape, ValueId x, ValueId y) {
    for (const auto& [main, gate] : {std::pair{x, y}, std::pair{y, x}}) {
      Draft *const a = takes_factor(main, shape), *const b = takes_factor(gate, shape);
      if (a == nullptr || b == nullptr || a == b || a->gamma || !b->gamma) continue;
      a->gate = std::make_unique<Draft>(std::move(*b));
      drafts_.erase(gate);
      gone_.insert(gate);
      return move(main, value);
    }
    // Rather into a layer than into a gate: what is multiplied with a layer's output may be another gate.
    for (const bool gated : {false, true}) {
      for (const auto& [main, other] : {std::pair{x, y}, std::pair{y, x}}) {
        Draft* const draft = takes_factor(main, shape);
        if (draft == nullptr || draft->gamma.has_value() != gated) continue;
        if (network_.shape(other).width != shape.width) continue;
        draft->times = other;
        return move(main, value);
      }
    }
  }

  void merge_add(ValueId value, const Shape& shape, ValueId x, ValueId y) {
    for (const auto& [main, other] : {std::pair{x, y}, std::pair{y, x}}) {
      Draft* const draft = mergeable(main);
      if (draft == nullptr || draft->plus || network_.shape(main) != shape) continue;
      if (network_.shape(other).width != shape.width) continue;
      draft->plus = other;
      return move(main, value);
    }
  }

  // The draft of a value of that shape, if it may still be multiplied.
  Draft* takes_factor(ValueId value, const Shape& shape) {
    Draft* const draft = mergeable(value);
    if (draft == nullptr || network_.shape(value) != shape || draft->multiplied() || draft->plus)
      return nullptr;
    return draft;
  }

  FusedNetwork finish() {
    std::set<ValueId> made;
    for (const auto& [value, draft] : drafts_) made.insert(value);
    FusedNetwork fused;
    for (ValueId value = 0; value < readers_.size(); ++value) fused.shapes.push_back(network_.shape(value));
    fused.columns = std::make_unique<ColumnFinder>(network_, std::move(made));
    for (std::size_t i = 0; i < network_.operations().size(); ++i) {
      const auto value = static_cast<ValueId>(kInputs + i);
      const Operation& operation = network_.operations()[i];
      if (const Draft* const draft = draft_of(value)) {
        fused.nodes.push_back({operation.name, value, operation.shape, product_of(*draft, fused)});
      } else if (const auto* const cross = std::get_if<Cross>(&operation.does);
                 cross != nullptr && is_read(value)) {
        add_cross(fused, operation, value, *cross);
      } else if (is_read(value) && !only_arranges(operation.does) && !gone_.contains(value)) {
        fused.nodes.push_back({operation.name, value, operation.shape, &operation.does});
      }
    }
    return fused;
  }

  // x0 ⊙ (x·w + b) + x; of low rank x·u is a product of its own, whose value the list does not name.
  void add_cross(FusedNetwork& fused, const Operation& operation, ValueId value, const Cross& cross) {
    const Shape& shape = operation.shape;
    Factor factor;
    factor.name = operation.name;
    factor.x = fused.operand(cross.x, shape.groups);
    factor.in = factor.out = factor.stride = shape.width;
    factor.places.emplace_back();
    if (!cross.u.empty()) {
      Factor first = factor;
      first.name += ".u";
      first.w = cross.u;
      first.out = first.stride = factor.in = cross.rank;
      const Shape between{shape.groups, cross.rank};
      const ValueId inner = fused.add_value(between);
      fused.nodes.push_back(
          {first.name, inner, between, FusedProduct{std::move(first), std::nullopt, {}, {}}});
      factor.x.clear();
      for (std::size_t g = 0; g < shape.groups; ++g)
        factor.x.push_back(fused.columns->one({{inner, g, 0, cross.rank}}));
    }
    factor.w = cross.w;
    factor.b = cross.b;
    FusedProduct product{std::move(factor), std::nullopt, fused.operand(cross.x0, shape.groups),
                         fused.operand(cross.x, shape.groups)};
    fused.nodes.push_back({operation.name, value, shape, std::move(product)});
  }

  FusedProduct product_of(const Draft& draft, const FusedNetwork& fused) const {
    FusedProduct product{factor_of(draft, fused), std::nullopt, {}, {}};
    if (draft.gate != nullptr) product.gate = factor_of(*draft.gate, fused);
    if (draft.times) product.times = fused.operand(*draft.times, draft.groups);
    if (draft.plus) product.plus = fused.operand(*draft.plus, draft.groups);
    return product;
  }

  Factor factor_of(const Draft& draft, const FusedNetwork& fused) const {
    const auto& product = std::get<Product>(draft.product->does);
    Factor factor;
    factor.name = draft.product->name;
    factor.w = product.w;
    factor.b = product.b;
    factor.in = network_.shape(product.x).width;
    factor.stride = product.width;
    factor.out = draft.cut ? product.width / draft.groups : product.width;
    factor.activation = draft.activation;
    factor.gamma = draft.gamma;
    factor.x = fused.operand(product.x, draft.cut ? 1 : draft.groups);
    for (std::size_t g = 0; g < draft.groups; ++g) {
      if (draft.cut) {
        factor.places.push_back({g * factor.out, g * factor.out});
      } else if (product.groups) {
        factor.places.push_back({g * factor.in * factor.out, g * factor.out});
      }
    }
    if (factor.places.empty()) factor.places.emplace_back();
    return factor;
  }

  const Network& network_;
  std::vector<std::vector<ValueId>> readers_;  // by value
  std::map<ValueId, Draft> drafts_;            // by the value that they make
  std::set<ValueId> gone_;                     // values that are never stored
};

}  // namespace

Epilogue Factor::epilogue() const {
  if (gamma) return Epilogue::gate;
  switch (activation.function) {
    case Function::identity:
      return Epilogue::linear;
    case Function::relu:
      return Epilogue::relu;
    default:
      return Epilogue::function;
  }
}

std::vector<Columns> FusedNetwork::operand(ValueId value, std::size_t groups) const {
  std::vector<Columns> found;
  for (std::size_t g = 0; g < (shapes[value].groups == 1 ? 1 : groups); ++g)
    found.push_back(columns->of(value, g));
  return found;
}

std::optional<Piece> FusedNetwork::whole_piece(Columns of) const {
  if (of->size() != 1) return std::nullopt;
  const Slice& slice = of->front();
  if (slice.value < kInputs || slice.begin != 0 || slice.end != shapes[slice.value].width)
    return std::nullopt;
  return Piece{slice.value, slice.group};
}

ValueId FusedNetwork::add_value(const Shape& shape) {
  shapes.push_back(shape);
  return static_cast<ValueId>(shapes.size() - 1);
}

FusedNetwork fuse(const Network& network) {
  FusedNetwork fused = Fuser(network).fuse();
  find_live_groups(network, fused);
  find_scores(network, fused);
  return fused;
}

}  // namespace pepnet::network
