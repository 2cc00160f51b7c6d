// A network as data: the list of operations that docs/network.md specifies, with its names resolved and its
// shapes known. Both lowerings read this and nothing else of a model but the values of its tensors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "network/activation.h"

namespace pepnet::network {

// The inputs are the first values: general, domain and prior.
using ValueId = std::uint32_t;
inline constexpr ValueId kInputs = 3;
inline constexpr const char* kInputNames[kInputs] = {"general", "domain", "prior"};

// For each row `groups` vectors of `width` numbers.
struct Shape {
  std::size_t groups = 1, width = 0;
  std::size_t size() const { return groups * width; }
  bool operator==(const Shape&) const = default;
};

// A tensor by name; empty where an operation has none.
using TensorName = std::string;

struct Activation {
  Function function = Function::identity;
  float alpha = 0.0F;  // of those that read it
  TensorName slope;    // likewise
};

struct Part {
  ValueId from;
  std::size_t begin, end;
};
struct Concat {
  std::vector<Part> of;
};
struct Stack {
  std::vector<ValueId> of;
};
struct Split {
  ValueId x;
  std::size_t groups;
};
struct Flatten {
  ValueId x;
};
struct Pick {
  ValueId x;
  std::vector<std::size_t> groups;
};
struct Product {
  ValueId x;
  TensorName w, b;
  std::size_t width;
  std::optional<std::size_t> groups;  // none: one matrix for all groups of x
  Activation activation;
};
struct Activate {
  ValueId x;
  Activation activation;
};
struct Gate {
  ValueId x;
  float gamma;
};
struct Multiply {
  ValueId x, y;
};
struct Add {
  ValueId x, y;
};
struct Affine {
  ValueId x;
  TensorName w, b;
  std::size_t width;
};
struct Mix {
  ValueId z, h;
  std::vector<std::vector<std::size_t>> choices;  // none: each group of z weighs all groups of h
};
struct Cross {
  ValueId x0, x;
  TensorName w, b, u;
  std::size_t rank;  // with u only
};
struct Fm {
  std::optional<ValueId> v, x;
  TensorName w;
  std::size_t width;
};
enum class Reduction : std::uint8_t { sum, mean, max };
struct Reduce {
  ValueId x;
  Reduction by;
  bool over_groups;
};
struct LayerNorm {
  ValueId x;
  TensorName w, b;
  float eps;
};
struct Select {
  ValueId x, by;  // `by`: an input
  std::size_t column;
};
struct Pairs {
  ValueId x;
};

using Does = std::variant<Concat, Stack, Split, Flatten, Pick, Product, Activate, Gate, Multiply, Add, Affine,
                          Mix, Cross, Fm, Reduce, LayerNorm, Select, Pairs>;

// The name of an operation's kind, as documents have it.
const char* name_of(const Does& does);

struct Operation {
  std::string name;
  Does does;
  Shape shape;  // of its value
};

enum class HeadKind : std::uint8_t { probability, identity, exp, softmax };
struct Head {
  ValueId of;
  HeadKind kind;
};

// More is refused, so that a list from outside costs bounded time and memory.
inline constexpr std::size_t kMostOperations = 4096, kMostHeads = 1024, kMostScores = 65536;
inline constexpr std::size_t kMostGroups = 4096, kMostNumbers = std::size_t{1} << 22;

// A list under construction, checked as it grows: whatever it holds is right.
//
// All functions throw std::invalid_argument that names the operation, and the operand or tensor that is off.
class Network {
 public:
  // Widths of general, domain and prior.
  explicit Network(const std::array<std::size_t, kInputs>& widths);

  // The value of that name, for the operation `reader` to read.
  ValueId value(const std::string& reader, const std::string& name) const;

  // Returns the operation's value.
  ValueId add(const std::string& name, Does does);
  void add_head(const Head& head);

  // To be called when all is added: there are heads, and all that was added is within the limits.
  void finish() const;

  const std::vector<Operation>& operations() const { return operations_; }
  const std::vector<Head>& heads() const { return heads_; }
  std::size_t scores() const { return scores_; }
  const Shape& shape(ValueId value) const { return shapes_[value]; }
  const std::string& name(ValueId value) const { return names_[value]; }
  // Every tensor that is read, in the order in which they first are.
  struct Tensor {
    TensorName name;
    std::vector<std::size_t> shape;
  };
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  friend class Checker;

  std::vector<Operation> operations_;
  std::vector<Head> heads_;
  std::size_t scores_ = 0, numbers_ = 0;
  std::vector<Shape> shapes_;       // by value
  std::vector<std::string> names_;  // likewise
  std::map<std::string, ValueId> values_;
  std::vector<Tensor> tensors_;
  std::map<TensorName, std::size_t> tensor_numbers_;
};

// The values that an operation reads, inputs among them.
std::vector<ValueId> operands_of(const Does& does);

}  // namespace pepnet::network
