// From a network's operations to a program for a GPU: where every value lies and in which precision
// (lower_homes.cc), and which launches make it (lower_steps.cc, lower_products.cc, lower_rows.cc).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/packing.h"
#include "cuda/program.h"
#include "network/fused.h"

namespace pepnet::cuda {

class Lowering {
 public:
  Lowering(Program& program, const network::Network& network, const Tensors& tensors);

  void lower();

 private:
  using Slices = network::Slices;
  using Groups = std::vector<network::Columns>;  // the columns of each group; one for all

  // How an operand is read: as products multiply it, in float32, or as it comes.
  enum class Format { values, floats, any };

  // Where one group of a value lies, in one format or both. Everything that lies somewhere is followed by
  // zeros up to a multiple of kWhole columns.
  struct Home {
    std::optional<Place> values, floats;
    bool reads_values = false, reads_floats = false;

    std::optional<Place>& at(Format format) { return format == Format::values ? values : floats; }
  };

  // Columns that a product reads, as they lie in a buffer.
  struct Arrangement {
    Place at;
    int depth = 0;
    std::vector<RowRun> runs;  // which column is which k
    std::vector<std::pair<network::Slice, int>> copied;
    bool copies_made = false;
  };

  // What a product multiplies for one group.
  struct Multiplied {
    Place at;
    int depth = 0;
    std::vector<RowRun> runs;
  };

  // lower_homes.cc
  void find_depths();
  void find_formats();
  void read(const Groups& groups, Format format);
  void arrange_factors();
  void arrange(network::Columns columns);
  std::size_t place_whole(const Slices& slices, std::size_t first, Arrangement& found);
  void join_products();
  void stack_for_mixes();
  void place_rest();
  void place_groups(network::ValueId value, Format format, Place& next);
  Place buffer(int columns, Format format);
  bool rounded() const { return program_.precision_ == Precision::bf16; }
  bool is_score(const network::Node& node) const { return fused_.scores.contains({node.value, 0}); }
  Format format_of(Format format) const {
    return format == Format::floats && !rounded() ? Format::values : format;
  }

  // lower_steps.cc
  void copy_inputs();
  void emit_level(std::size_t depth);
  // lower_products.cc
  void emit_products(const std::vector<std::size_t>& nodes, bool gated);
  void emit_product(std::size_t node, std::vector<ProductPlan>& plans);
  void emit_joined(const std::vector<std::size_t>& nodes, std::vector<ProductPlan>& plans);
  // lower_rows.cc
  void emit_mix(const network::Node& node, const network::Mix& mix, std::vector<StepPlan>& steps);
  void emit_rows(const network::Node& node, std::vector<StepPlan>& steps);
  void emit_scores(std::vector<StepPlan>& steps);
  void emit_heads(std::vector<StepPlan>& steps);
  // lower_steps.cc
  void flush_copies();
  void push(std::vector<StepPlan> steps);

  std::vector<std::size_t> live_groups(const network::Node& node) const;
  Groups live_of(const network::Node& node, const Groups& groups) const;
  Place place(const network::Slice& slice, Format format);
  GroupsPlace groups_place(const Groups& groups, Format format, int columns);
  std::optional<GroupsPlace> direct_place(const Groups& groups, Format format, int columns);
  Place gather(const Groups& groups, Format format, int group);
  Multiplied multiplied(const network::Factor& factor, std::size_t group);
  SidePlan side(Side& side, const network::Factor& factor, const std::vector<std::size_t>& groups,
                const std::vector<Multiplied>& x);
  std::optional<std::size_t> floats_of(const network::TensorName& name, std::size_t columns);
  Home& home(const network::Node& node, std::size_t group) { return homes_[{node.value, group}]; }
  GroupsPlace out_of(const network::Node& node, std::size_t group, bool also);
  const float* tensor(const network::TensorName& name) const { return tensors_.at(name).data; }

  Program& program_;
  const network::Network& network_;
  const Tensors& tensors_;
  network::FusedNetwork fused_;
  Packing packing_;

  std::map<network::ValueId, std::size_t> node_of_;  // by the value that it makes
  std::vector<std::size_t> depth_;                   // by node
  std::map<network::Piece, Home> homes_;
  std::map<network::Columns, Arrangement> arrangements_;
  std::vector<std::vector<std::size_t>> joined_;  // nodes that are one product
  std::map<std::pair<Groups, Format>, Place> gathers_;
  std::vector<CopyPlan::One> copies_;  // that the steps to come wait for
};

}  // namespace pepnet::cuda
