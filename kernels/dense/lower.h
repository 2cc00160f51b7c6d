// From a network's operations to a plan for the CPU: where every value lies, in which format, and in what
// order its steps are done. lower_homes.cc has the first, lower_formats.cc the second, lower_steps.cc the
// third.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "dense/dense_model.h"
#include "dense/plan.h"
#include "network/fused.h"

namespace pepnet::engine {

// Columns of float32 that are copied to lie side by side.
struct Gather {
  Ref at;
  bool made = false;
};

using network::Piece;

// Where a piece lies, in one format or both. Without bf16 activations both are the same place.
struct Home {
  Ref values, floats;  // as products of the main precision read it, and in float32
  bool reads_values = false, reads_floats = false;
  bool feeds = false;  // products of the main precision, for which it is padded
};

// Columns that a product reads, as they lie in a buffer: what a request shares comes first, and what other
// steps make lies where they write it.
struct Arrangement {
  struct Copied {
    network::Slice slice;
    std::size_t k;
  };
  Ref at;
  std::size_t width = 0;                // to the end of the last column
  std::vector<RowRun> runs;             // which column of the network is which k; none: column k is k
  std::vector<Copied> copied;           // what lies somewhere else
  std::vector<ColumnRun> shared, rest;  // of inputs
  std::size_t rest_at = 0;              // k of `rest`; `shared` is at 0
  bool read_whole = false;              // also by products that do not start from the sums over `shared`
  bool read_by_main = false;            // by products of the main precision
  bool copies_made = false;
  Ref bytes;                                  // int8
  std::optional<std::size_t> shared_columns;  // their number in the plan, once a product starts from them
};

class Lowering {
 public:
  // What `network` and `tensors` refer to must live until the packer has finished.
  Lowering(const network::Network& network, const Tensors& tensors, const Ops& main, const Ops& small,
           const DenseOptions& options, Packer& packer);

  Plan plan();

 private:
  using Node = network::Node;
  using Columns = network::Columns;

  bool quantized() const { return main_.activation == Activation::u8; }
  bool rounded() const { return main_.activation == Activation::bf16; }
  // How far rows are padded: to whole steps of a product, or, where quantising does that, to whole panels.
  std::size_t multiple() const { return quantized() ? kPanel : k_multiple(main_.precision); }
  std::size_t padded(std::size_t width) const { return round_up(width, multiple()); }
  // That of what products read as bf16 or as float32. Beside bf16, float32 is for small products alone.
  std::size_t padding(bool as_bf16) const { return rounded() && !as_bf16 ? kPanel : multiple(); }
  BufferId floats(std::size_t columns) { return build_.buffer(columns * sizeof(float)); }
  BufferId values(std::size_t columns) { return build_.buffer(columns * value_bytes(rounded())); }
  static std::size_t value_bytes(bool as_bf16) { return as_bf16 ? 2 : 4; }

  // lower_formats.cc
  void find_readers();
  void find_precisions();
  void find_uses();
  bool is_fine(std::size_t node) const;
  void use(const std::vector<Columns>& columns, bool as_values);
  const Ops& ops_of(std::size_t node) const { return in_float32_[node] ? small_ : main_; }
  // Whether the node's products read bf16.
  bool reads_bf16(std::size_t node) const { return rounded() && !in_float32_[node]; }

  // lower_homes.cc
  void find_homes();
  Columns side_by_side(const std::vector<Columns>& groups);
  void plan_gather(Columns columns);
  void stack_for_mix(const network::Mix& mix);
  Arrangement& arrangement(Columns columns, bool as_bf16);
  void place_inputs(Arrangement& found, const network::Slices& slices, std::vector<std::size_t> sources,
                    bool split);

  // lower_steps.cc
  void emit_all();
  void emit_inputs();
  void emit_lanes(const std::vector<std::size_t>& nodes);
  void emit(std::size_t node, std::size_t group);
  void emit_product(std::size_t node, std::size_t group);
  const PackedMatrix* slopes(const network::TensorName& name, std::size_t first, std::size_t width);
  void emit_score(std::size_t node, std::size_t group);
  void emit_mix(const Node& node, const network::Mix& mix, std::size_t group);
  void emit_row_operation(const Node& node, std::size_t group);
  void emit_heads();
  void finish_rows(Piece piece);
  bool crosses(std::size_t node, const std::vector<std::size_t>& lanes, bool lane) const;
  std::vector<std::size_t> depths() const;
  std::size_t tail_bytes(const std::vector<std::size_t>& nodes) const;
  std::vector<std::pair<Columns, std::size_t>> head_columns(const network::Head& head, std::size_t group,
                                                            std::size_t column);

  // lower_operands.cc
  struct Factored {
    const PackedMatrix* w;
    Ref a;
    std::optional<std::size_t> prefix;
  };
  Factored factored(std::size_t node, const network::Factor& factor, std::size_t group, bool feeds,
                    bool may_share);
  void quantize(Arrangement& from, Ref at);
  Ref float_columns(Columns columns);
  void copy(const network::Slice& slice, Ref to, std::size_t padded, bool as_bf16);
  const float* tensor(const network::TensorName& name) const;

  const network::Network& network_;
  const Tensors& tensors_;
  const Ops& main_;
  const Ops& small_;
  const DenseOptions& options_;
  Packer& packer_;
  network::FusedNetwork fused_;
  PlanBuilder build_;

  std::map<network::ValueId, std::size_t> node_of_;  // by the value that it makes
  static constexpr std::size_t kHead = ~std::size_t{0};
  std::map<network::ValueId, std::vector<std::pair<std::size_t, network::Operand>>>
      readers_;                          // nodes, or kHead
  std::vector<bool> in_float32_, tail_;  // by node
  std::map<Piece, Home> homes_;
  std::map<std::pair<Columns, bool>, Arrangement> arrangements_;  // by whether they are bf16
  std::map<Columns, Gather> gathers_;
};

}  // namespace pepnet::engine
