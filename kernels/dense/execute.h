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

// General, domain and prior.
inline std::array<Columns, 3> columns_of(const std::array<std::size_t, 3>& widths,
                                         const DenseInputs& inputs) {
  return {{{inputs.general, widths[0]}, {inputs.domain, widths[1]}, {inputs.prior, widths[2]}}};
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
  const float* sums = nullptr;  // of all shared prefixes, where they are shared
};

// The steps from `first` to `last`, all their columns.
void do_steps(const Block& block, std::size_t first, std::size_t last, Range rows);

// Units of a stage: first those of its products, then those of its chains.
std::size_t units_of(const Stage& stage, std::size_t rows);
void do_units(const Block& block, const Stage& stage, Range units);

// The shared columns of the first row, rounded for `prefix_sums`; and the sums of some panels of all
// prefixes.
std::size_t shared_bytes(const Plan& plan);
void take_shared(const Plan& plan, const DenseInputs& inputs, std::byte* to);
void prefix_sums(const Plan& plan, const std::byte* shared, Range panels, float* sums);

}  // namespace pepnet::engine
