// Executes the steps of a plan: from its numbers to calls of kernels.
#pragma once

#include <array>
#include <cstddef>

#include "dense/dense_model.h"
#include "dense/plan.h"

namespace pepnet::engine {

struct Columns {
  const float* data;
  std::size_t width;
};

// By `Input`.
inline std::array<Columns, 3> columns_of(const DenseConfig& config, const DenseInputs& inputs) {
  return {{{inputs.general, config.general}, {inputs.domain, config.domain}, {inputs.prior, config.prior}}};
}

struct Range {
  std::size_t begin, end;
};

// Rows that go through the network together.
struct Block {
  const Plan* plan;
  const Layout* layout;
  std::byte* scratch;           // at least rows * layout->row_bytes
  DenseInputs inputs;           // from the block's first row on
  float* out;                   // likewise
  const float* init = nullptr;  // sums of the shared prefix, where it is shared
};

// The steps from `first` to `last`, all their columns.
void do_steps(const Block& block, std::size_t first, std::size_t last, Range rows);

// Units of a stage: first those of its products, then those of its chains.
std::size_t units_of(const Stage& stage, std::size_t rows);
void do_units(const Block& block, const Stage& stage, Range units);

// The shared prefix of the first row, rounded for `prefix_sums`; and some panels of its sums.
std::size_t prefix_bytes(const SharedPrefix& prefix);
void take_prefix(const Plan& plan, const DenseInputs& inputs, std::byte* to);
void prefix_sums(const Plan& plan, const std::byte* prefix, Range panels, float* sums);

}  // namespace pepnet::engine
