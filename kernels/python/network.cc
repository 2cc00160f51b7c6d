// A network's list of operations from the plain values of its document.
#include "network/network.h"

#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "cpu/named.h"

// In the list's own room, whose words for operations are those of kernels elsewhere.
namespace pepnet::network {
namespace {

namespace py = pybind11;

constexpr Named<HeadKind> kHeads[] = {{"probability", HeadKind::probability},
                                      {"identity", HeadKind::identity},
                                      {"exp", HeadKind::exp},
                                      {"softmax", HeadKind::softmax}};
constexpr Named<Reduction> kReductions[] = {
    {"sum", Reduction::sum}, {"mean", Reduction::mean}, {"max", Reduction::max}};
constexpr Named<bool> kOver[] = {{"groups", true}, {"columns", false}};

std::vector<std::string> activations() {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kFunctions; ++i) names.emplace_back(name_of(static_cast<Function>(i)));
  return names;
}

// The fields of one operation. Each is taken once; what is left in the end is not known.
class Fields {
 public:
  Fields(const Network& network, const py::dict& fields)
      : network_(network),
        left_(fields.attr("copy")()),
        name_(take<std::string>("name")),
        op_(take<std::string>("op")),
        where_("operation '" + name_ + "' (" + op_ + ")") {}
  // Of a part of an operation.
  Fields(const Fields& of, const py::dict& fields)
      : network_(of.network_),
        left_(fields.attr("copy")()),
        name_(of.name_),
        op_(of.op_),
        where_(of.where_) {}

  const std::string& name() const { return name_; }
  const std::string& op() const { return op_; }

  template <class T>
  T take(const char* field) {
    std::optional<T> found = find<T>(field);
    if (!found) throw py::value_error(place(field) + ": expected a value, got none");
    return *std::move(found);
  }

  // None where it is left out or None.
  template <class T>
  std::optional<T> find(const char* field) {
    if (!left_.contains(field)) return std::nullopt;
    const py::object value = left_.attr("pop")(field);
    if (value.is_none()) return std::nullopt;
    try {
      return value.cast<T>();
    } catch (const py::cast_error&) {
      throw py::type_error(place(field) + ": got " + std::string(py::repr(value)) + ", which it cannot be");
    }
  }

  ValueId value(const char* field) { return network_.value(place(field), take<std::string>(field)); }
  std::optional<ValueId> optional_value(const char* field) {
    const auto name = find<std::string>(field);
    return name ? std::optional(network_.value(place(field), *name)) : std::nullopt;
  }
  std::vector<ValueId> values(const char* field) {
    std::vector<ValueId> found;
    for (const auto& name : take<std::vector<std::string>>(field))
      found.push_back(network_.value(place(field), name));
    return found;
  }
  TensorName tensor(const char* field) { return find<std::string>(field).value_or(std::string()); }
  float number(const char* field, double otherwise) {
    return static_cast<float>(find<double>(field).value_or(otherwise));
  }

  Activation activation() {
    const std::string name = find<std::string>("activation").value_or("identity");
    const std::optional<Function> function = function_named(name);
    if (!function) {
      std::string known;
      for (const std::string& one : activations()) known += (known.empty() ? "" : ", ") + one;
      throw py::value_error(place("activation") + ": expected one of " + known + ", got '" + name + "'");
    }
    const auto alpha = find<double>("alpha");
    const auto otherwise = default_alpha(*function);
    if (alpha && !otherwise) throw py::value_error(place("alpha") + ": expected none, for it is not read");
    return {*function, static_cast<float>(alpha.value_or(otherwise.value_or(0.0F))), tensor("slope")};
  }

  std::string place(const char* field) const { return where_ + ": " + field; }

  void expect_no_more() const {
    for (const auto& [field, value] : left_)
      throw py::value_error(where_ + ": '" + field.cast<std::string>() + "' is not one of its fields");
  }

 private:
  const Network& network_;
  py::dict left_;
  std::string name_, op_, where_;
};

Part part_of(const Network& network, const Fields& of, const py::dict& fields) {
  Fields part(of, fields);
  const ValueId from = part.value("from");
  const auto begin = part.find<std::size_t>("begin").value_or(0);
  const auto end = part.find<std::size_t>("end").value_or(network.shape(from).width);
  part.expect_no_more();
  return {from, begin, end};
}

Does does_of(const Network& network, Fields& f) {
  const std::string& op = f.op();
  if (op == "concat") {
    Concat concat;
    for (const auto& part : f.take<std::vector<py::dict>>("of"))
      concat.of.push_back(part_of(network, f, part));
    return concat;
  }
  if (op == "stack") return Stack{f.values("of")};
  if (op == "split") return Split{f.value("x"), f.take<std::size_t>("groups")};
  if (op == "flatten") return Flatten{f.value("x")};
  if (op == "pick") return Pick{f.value("x"), f.take<std::vector<std::size_t>>("groups")};
  if (op == "product") {
    return Product{f.value("x"),
                   f.tensor("w"),
                   f.tensor("b"),
                   f.take<std::size_t>("width"),
                   f.find<std::size_t>("groups"),
                   f.activation()};
  }
  if (op == "activate") return Activate{f.value("x"), f.activation()};
  if (op == "gate") return Gate{f.value("x"), f.number("gamma", 2.0)};
  if (op == "multiply") return Multiply{f.value("x"), f.value("y")};
  if (op == "add") return Add{f.value("x"), f.value("y")};
  if (op == "affine") return Affine{f.value("x"), f.tensor("w"), f.tensor("b"), f.take<std::size_t>("width")};
  if (op == "mix") {
    return Mix{f.value("z"), f.value("h"),
               f.find<std::vector<std::vector<std::size_t>>>("choices").value_or(
                   std::vector<std::vector<std::size_t>>())};
  }
  if (op == "cross") {
    return Cross{f.value("x0"), f.value("x"),  f.tensor("w"),
                 f.tensor("b"), f.tensor("u"), f.find<std::size_t>("rank").value_or(0)};
  }
  if (op == "fm")
    return Fm{f.optional_value("v"), f.optional_value("x"), f.tensor("w"), f.take<std::size_t>("width")};
  if (op == "reduce") {
    return Reduce{f.value("x"), value_named("by", kReductions, f.take<std::string>("by")),
                  value_named("over", kOver, f.take<std::string>("over"))};
  }
  if (op == "layer_norm") return LayerNorm{f.value("x"), f.tensor("w"), f.tensor("b"), f.number("eps", 1e-5)};
  if (op == "select") return Select{f.value("x"), f.value("by"), f.take<std::size_t>("column")};
  if (op == "pairs") return Pairs{f.value("x")};
  throw py::value_error(f.place("op") + ": got '" + op + "', which is not known");
}

Network network_of(const std::array<std::size_t, kInputs>& widths, const std::vector<py::dict>& operations,
                   const std::vector<std::pair<std::string, std::string>>& heads) {
  Network network(widths);
  for (const py::dict& operation : operations) {
    Fields fields(network, operation);
    Does does = does_of(network, fields);
    fields.expect_no_more();
    network.add(fields.name(), std::move(does));
  }
  for (const auto& [of, kind] : heads)
    network.add_head({network.value("heads", of), value_named("as", kHeads, kind)});
  network.finish();
  return network;
}

py::dict shapes_of(const Network& network) {
  py::dict shapes;
  for (const Operation& operation : network.operations())
    shapes[py::str(operation.name)] = py::make_tuple(operation.shape.groups, operation.shape.width);
  return shapes;
}

py::dict tensors_of(const Network& network) {
  py::dict tensors;
  for (const auto& [name, shape] : network.tensors()) tensors[py::str(name)] = py::tuple(py::cast(shape));
  return tensors;
}

}  // namespace

void bind_to(py::module_& module) {
  using namespace py::literals;
  py::class_<Network>(module, "Network", "A list of operations that was checked: docs/network.md.")
      .def(py::init(&network_of), "widths"_a, "operations"_a, "heads"_a)
      .def_property_readonly("scores", &Network::scores)
      .def("shapes", &shapes_of)
      .def("tensors", &tensors_of);
  module.def("activations", &activations);
}

}  // namespace pepnet::network

namespace pepnet::python {

void bind_network(py::module_& module) { network::bind_to(module); }

}  // namespace pepnet::python
