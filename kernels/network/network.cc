#include "network/network.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace pepnet::network {
namespace {

std::string text_of(const std::vector<std::size_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}
std::string text_of(const Shape& shape) { return text_of(std::vector{shape.groups, shape.width}); }

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

}  // namespace

// Finds the shape of an operation's value, and registers the tensors that it reads.
class Checker {
 public:
  Checker(Network& network, const std::string& name, const Does& does)
      : network_(network), where_("operation '" + name + "' (" + name_of(does) + ")") {}

  [[noreturn]] void refuse(const std::string& field, const std::string& expected,
                           const std::string& got) const {
    throw std::invalid_argument(where_ + ": " + field + ": expected " + expected + ", got " + got);
  }

  Shape operator()(const Concat& concat) {
    expect_any("of", concat.of.size());
    Shape shape;
    for (const Part& part : concat.of) {
      const Shape& x = operand("of", part.from);
      if (part.end > x.width || part.begin >= part.end) {
        refuse("of",
               "at least one column within 0 to " + std::to_string(x.width) + " of '" +
                   network_.name(part.from) + "'",
               std::to_string(part.begin) + " to " + std::to_string(part.end));
      }
      shape.groups = together("of", shape.groups, part.from);
      shape.width = sum(shape.width, part.end - part.begin);
    }
    return shape;
  }

  Shape operator()(const Stack& stack) {
    expect_any("of", stack.of.size());
    Shape shape{0, operand("of", stack.of.front()).width};
    for (const ValueId x : stack.of) {
      if (operand("of", x).width != shape.width)
        refuse("of", "values of " + std::to_string(shape.width) + " columns", described(x));
      shape.groups = sum(shape.groups, network_.shape(x).groups);
    }
    return shape;
  }

  Shape operator()(const Split& split) {
    const Shape& x = operand("x", split.x);
    if (x.groups != 1) refuse("x", "a value of one group", described(split.x));
    if (split.groups == 0 || x.width % split.groups != 0) {
      refuse("groups",
             "a divisor of the " + std::to_string(x.width) + " columns of '" + network_.name(split.x) + "'",
             std::to_string(split.groups));
    }
    return {split.groups, x.width / split.groups};
  }

  Shape operator()(const Flatten& flatten) { return {1, operand("x", flatten.x).size()}; }

  Shape operator()(const Pick& pick) {
    const Shape& x = operand("x", pick.x);
    expect_any("groups", pick.groups.size());
    for (const std::size_t group : pick.groups) expect_group("groups", group, pick.x);
    return {pick.groups.size(), x.width};
  }

  Shape operator()(const Product& product) {
    const Shape& x = operand("x", product.x);
    expect_any("width", product.width);
    std::vector<std::size_t> w{x.width, product.width}, b{product.width};
    std::size_t groups = x.groups;
    if (product.groups) {
      groups = *product.groups;
      expect_any("groups", groups);
      if (x.groups != groups && x.groups != 1)
        refuse("x", "a value of one group or of " + std::to_string(groups), described(product.x));
      w.insert(w.begin(), groups);
      b.insert(b.begin(), groups);
    }
    tensor("w", product.w, w);
    if (!product.b.empty()) tensor("b", product.b, b);
    activation(product.activation, product.width);
    return {groups, product.width};
  }

  Shape operator()(const Activate& activate) {
    const Shape& x = operand("x", activate.x);
    activation(activate.activation, x.width);
    return x;
  }

  Shape operator()(const Gate& gate) {
    if (!(gate.gamma > 0.0F) || !std::isfinite(gate.gamma))
      refuse("gamma", "a positive number", std::to_string(gate.gamma));
    return operand("x", gate.x);
  }

  Shape operator()(const Multiply& multiply) { return elementwise(multiply.x, multiply.y); }
  Shape operator()(const Add& add) { return elementwise(add.x, add.y); }

  Shape operator()(const Affine& affine) {
    const Shape& x = operand("x", affine.x);
    expect_any("width", affine.width);
    if (x.width != affine.width && x.width != 1)
      refuse("x", "a value of one column or of " + std::to_string(affine.width), described(affine.x));
    tensor("w", affine.w, {affine.width});
    if (!affine.b.empty()) tensor("b", affine.b, {affine.width});
    return {x.groups, affine.width};
  }

  Shape operator()(const Mix& mix) {
    const Shape& z = operand("z", mix.z);
    const Shape& h = operand("h", mix.h);
    if (mix.choices.empty()) {
      if (z.width != h.groups)
        refuse("z", "a column for each of the " + std::to_string(h.groups) + " groups of h",
               described(mix.z));
      return {z.groups, h.width};
    }
    if (mix.choices.size() != z.groups) {
      refuse("choices", "a list for each of the " + std::to_string(z.groups) + " groups of z",
             std::to_string(mix.choices.size()));
    }
    for (const auto& choice : mix.choices) {
      if (choice.size() != z.width) {
        refuse("choices", "a group for each of the " + std::to_string(z.width) + " columns of z",
               std::to_string(choice.size()));
      }
      for (const std::size_t group : choice) expect_group("choices", group, mix.h);
    }
    return {z.groups, h.width};
  }

  Shape operator()(const Cross& cross) {
    const Shape& x = operand("x", cross.x);
    if (operand("x0", cross.x0) != x) refuse("x0", "the shape of x, " + text_of(x), described(cross.x0));
    std::size_t into = x.width;
    if (!cross.u.empty()) {
      expect_any("rank", cross.rank);
      tensor("u", cross.u, {x.width, cross.rank});
      into = cross.rank;
    } else if (cross.rank != 0) {
      refuse("rank", "u beside it", "none");
    }
    tensor("w", cross.w, {into, x.width});
    if (!cross.b.empty()) tensor("b", cross.b, {x.width});
    return x;
  }

  Shape operator()(const Fm& fm) {
    expect_any("width", fm.width);
    if (!fm.v && !fm.x) refuse("v", "v or x", "neither");
    if (fm.x.has_value() == fm.w.empty())
      refuse("w", "a tensor with x, and none without", fm.w.empty() ? "none" : fm.w);
    if (fm.v && operand("v", *fm.v).width != fm.width)
      refuse("v", "a value of " + std::to_string(fm.width) + " columns", described(*fm.v));
    if (fm.x) {
      const Shape& x = operand("x", *fm.x);
      if (x.groups != 1) refuse("x", "a value of one group", described(*fm.x));
      tensor("w", fm.w, {x.width, fm.width});
    }
    return {1, fm.width};
  }

  Shape operator()(const Reduce& reduce) {
    const Shape& x = operand("x", reduce.x);
    return reduce.over_groups ? Shape{1, x.width} : Shape{x.groups, 1};
  }

  Shape operator()(const LayerNorm& norm) {
    const Shape& x = operand("x", norm.x);
    if (!(norm.eps > 0.0F) || !std::isfinite(norm.eps))
      refuse("eps", "a positive number", std::to_string(norm.eps));
    if (!norm.w.empty()) tensor("w", norm.w, {x.width});
    if (!norm.b.empty()) tensor("b", norm.b, {x.width});
    return x;
  }

  Shape operator()(const Select& select) {
    const Shape& x = operand("x", select.x);
    if (select.by >= kInputs) refuse("by", "an input", "'" + network_.name(select.by) + "'");
    const std::size_t columns = network_.shape(select.by).width;
    if (select.column >= columns) {
      refuse("column", "one of the " + std::to_string(columns) + " of " + network_.name(select.by),
             std::to_string(select.column));
    }
    return {1, x.width};
  }

  Shape operator()(const Pairs& pairs) {
    const Shape& x = operand("x", pairs.x);
    if (x.groups < 2) refuse("x", "a value of at least two groups", described(pairs.x));
    return {1, x.groups * (x.groups - 1) / 2};
  }

  // A value with columns: only an input may have none, and nothing reads that.
  const Shape& operand(const char* field, ValueId value) const {
    const Shape& shape = network_.shape(value);
    if (shape.width == 0) refuse(field, "a value with columns", described(value));
    return shape;
  }

 private:
  std::string described(ValueId value) const {
    return "'" + network_.name(value) + "' " + text_of(network_.shape(value));
  }

  void expect_any(const char* field, std::size_t count) const {
    if (count == 0) refuse(field, "at least 1", "0");
  }
  void expect_group(const char* field, std::size_t group, ValueId of) const {
    const std::size_t groups = network_.shape(of).groups;
    if (group < groups) return;
    refuse(field, "groups below the " + std::to_string(groups) + " of '" + network_.name(of) + "'",
           std::to_string(group));
  }

  // Widths are below 2^31 and lists below 2^31 long: what is over a limit is refused by it, and does not
  // wrap.
  static std::size_t sum(std::size_t a, std::size_t b) { return a + b; }

  // The groups of two operands of which one may have a single group.
  std::size_t together(const char* field, std::size_t groups, ValueId value) const {
    const std::size_t more = network_.shape(value).groups;
    if (groups == 1 || more == 1 || groups == more) return std::max(groups, more);
    refuse(field, "a value of one group or of " + std::to_string(groups), described(value));
  }

  Shape elementwise(ValueId a, ValueId b) const {
    const Shape &x = operand("x", a), &y = operand("y", b);
    if (x.width != y.width && x.width != 1 && y.width != 1)
      refuse("y", "a value of one column or of " + std::to_string(x.width), described(b));
    return {together("y", x.groups, b), std::max(x.width, y.width)};
  }

  void activation(const Activation& activation, std::size_t width) {
    if (!std::isfinite(activation.alpha))
      refuse("alpha", "a finite number", std::to_string(activation.alpha));
    if (activation.slope.empty() == reads_slope(activation.function)) {
      refuse("slope", activation.slope.empty() ? "a tensor, which prelu reads" : "none, for it is not read",
             activation.slope.empty() ? "none" : "'" + activation.slope + "'");
    }
    if (!activation.slope.empty()) tensor("slope", activation.slope, {width});
  }

  // The first reader of a tensor says its shape, and all others must have the same.
  void tensor(const char* field, const TensorName& name, const std::vector<std::size_t>& shape) {
    if (name.empty()) refuse(field, "the name of a tensor", "none");
    const auto [it, fresh] = network_.tensor_numbers_.try_emplace(name, network_.tensors_.size());
    if (fresh) return network_.tensors_.push_back({name, shape});
    const std::vector<std::size_t>& known = network_.tensors_[it->second].shape;
    if (known == shape) return;
    refuse(field, "tensor '" + name + "' " + text_of(known) + " as another operation reads it",
           text_of(shape));
  }

  Network& network_;
  std::string where_;
};

Network::Network(const std::array<std::size_t, kInputs>& widths) {
  for (ValueId i = 0; i < kInputs; ++i) {
    if (widths[i] > kMostNumbers) {
      throw std::invalid_argument(std::string("inputs: ") + kInputNames[i] + ": expected at most " +
                                  std::to_string(kMostNumbers) + " columns, got " +
                                  std::to_string(widths[i]));
    }
    shapes_.push_back({1, widths[i]});
    names_.emplace_back(kInputNames[i]);
    values_.emplace(kInputNames[i], i);
  }
}

ValueId Network::value(const std::string& reader, const std::string& name) const {
  const auto it = values_.find(name);
  if (it != values_.end()) return it->second;
  throw std::invalid_argument(reader + ": expected an input or a value of an operation before it, got '" +
                              name + "'");
}

ValueId Network::add(const std::string& name, Does does) {
  Checker checker(*this, name, does);
  if (name.empty()) checker.refuse("name", "one of at least 1 character", "none");
  if (values_.contains(name)) checker.refuse("name", "one that no value has", "'" + name + "'");
  if (operations_.size() >= kMostOperations)
    checker.refuse("network", "at most " + std::to_string(kMostOperations) + " operations", "more");
  const Shape shape = std::visit(checker, does);
  if (shape.groups > kMostGroups)
    checker.refuse("groups", "at most " + std::to_string(kMostGroups), std::to_string(shape.groups));
  if (shape.width > kMostNumbers || shape.size() > kMostNumbers - numbers_) {
    checker.refuse("shape", "at most " + std::to_string(kMostNumbers) + " numbers of all values of a row",
                   text_of(shape) + " beside " + std::to_string(numbers_));
  }
  numbers_ += shape.size();
  operations_.push_back({name, std::move(does), shape});
  shapes_.push_back(shape);
  names_.push_back(name);
  const auto id = static_cast<ValueId>(names_.size() - 1);
  values_.emplace(name, id);
  return id;
}

void Network::add_head(const Head& head) {
  const auto refuse = [&](const std::string& expected, const std::string& got) {
    throw std::invalid_argument("head of '" + names_[head.of] + "': expected " + expected + ", got " + got);
  };
  const Shape& shape = shapes_[head.of];
  if (shape.width == 0) refuse("a value with columns", text_of(shape));
  if (heads_.size() >= kMostHeads) refuse("at most " + std::to_string(kMostHeads) + " heads", "more");
  if (shape.size() > kMostScores - scores_)
    refuse("at most " + std::to_string(kMostScores) + " scores", std::to_string(scores_ + shape.size()));
  scores_ += shape.size();
  heads_.push_back(head);
}

void Network::finish() const {
  if (heads_.empty()) throw std::invalid_argument("heads: expected at least 1, got 0");
}

const char* name_of(const Does& does) {
  constexpr const char* kNames[] = {"concat",   "stack", "split",    "flatten",    "pick",   "product",
                                    "activate", "gate",  "multiply", "add",        "affine", "mix",
                                    "cross",    "fm",    "reduce",   "layer_norm", "select", "pairs"};
  static_assert(std::size(kNames) == std::variant_size_v<Does>);
  return kNames[does.index()];
}

std::vector<ValueId> operands_of(const Does& does) {
  return std::visit(Overloaded{
                        [](const Concat& one) {
                          std::vector<ValueId> of;
                          for (const Part& part : one.of) of.push_back(part.from);
                          return of;
                        },
                        [](const Stack& one) { return one.of; },
                        [](const Multiply& one) { return std::vector{one.x, one.y}; },
                        [](const Add& one) { return std::vector{one.x, one.y}; },
                        [](const Mix& one) { return std::vector{one.z, one.h}; },
                        [](const Cross& one) { return std::vector{one.x0, one.x}; },
                        [](const Select& one) { return std::vector{one.x, one.by}; },
                        [](const Fm& one) {
                          std::vector<ValueId> of;
                          if (one.v) of.push_back(*one.v);
                          if (one.x) of.push_back(*one.x);
                          return of;
                        },
                        [](const auto& one) { return std::vector{one.x}; },
                    },
                    does);
}

}  // namespace pepnet::network
