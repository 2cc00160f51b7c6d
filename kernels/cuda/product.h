// The parameters of the product kernel: a layer of all groups at once, with its epilogue in the same pass.
//
//     out = f(a·w + b) ⊙ γσ(u·v + c) + plus    or    f(a·w + b) ⊙ times + plus
//
// A gated layer computes both products in one block and keeps both sums in registers, so that the gate's
// tensor, as large as the layer's output, never reaches memory. Groups are experts, or tasks, or just one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/numbers.h"
#include "cuda/shape.h"
#include "network/activation.h"
#include "network/epilogue.h"

namespace pepnet::cuda {

// A gated product multiplies its epilogue's result with γσ of its second sum; then comes what is multiplied
// and added.
using network::Epilogue;

constexpr int kWhole = 64;  // widths and depths are padded to a multiple

constexpr int kRun = 32;  // of k that lie side by side in packed bf16

// Where a weight is in a packed matrix of `columns` columns. The tensor cores take bf16 in pairs of k: of
// each column kRun of k lie side by side, then the next column's, so that a block reads both together.
PEPNET_BOTH std::size_t packed_at(Precision precision, int k, int n, int columns) {
  const int run = precision == Precision::bf16 ? kRun : 1;
  const std::size_t line = static_cast<std::size_t>(k / run) * static_cast<std::size_t>(columns);
  return (line + static_cast<std::size_t>(n)) * static_cast<std::size_t>(run) +
         static_cast<std::size_t>(k % run);
}

// One side of a product for all groups; a and w are of its precision. Of a group's share the distance is in
// elements, 0 where all have the same.
struct Side {
  Columns a;
  int a_group;
  const void* w;  // packed, [depth, columns] of each group
  std::size_t w_group;
  const float* bias;  // [columns]
  int bias_group;
  int depth;  // a multiple of kWhole; what is padding is zeros in a and w
};

// Columns of a group each, `group` numbers apart; 0 where all groups have the same. None: `first` is null.
struct Beside {
  Columns at;
  int group;
};

struct Product {
  Side main, gate;
  bool gated;  // whether there is a `gate`
  Epilogue epilogue;
  network::Function function;  // for Epilogue::function: it and its alpha and slopes (null: none)
  float alpha;
  const float* slope;  // [columns]
  float gamma;
  int rows;  // of a, times, plus and out
  int groups;
  int columns;               // of a group, a multiple of kWhole
  int used;                  // of these; the others become zeros, whatever is in the row
  const int* used_by_whole;  // the same for each kWhole columns, where layers lie side by side; or null
  Beside times, plus;
  Beside out, also;  // `also`: the same once more, in another precision
};

constexpr int kMostTogether = 4;

// Products that do not wait for each other, in one launch: all of them gated, or none.
struct Products {
  Product of[kMostTogether];
  int first[kMostTogether];  // block of each
  int count;
};

// The shared memory of a block: what stages hold of both matrices, in words of 4 bytes, and in the end its
// part of the output. Weights stand there by column in bf16, by k in float32.
template <Precision kPrecision, Tile kTile>
union Stages {
  static constexpr Shape kShape = shape_of(kPrecision, kTile);
  struct {
    std::uint32_t a[extent(kShape.stages)][extent(kShape.rows)][extent(kShape.row_words())];
    std::uint32_t w[extent(kShape.stages)][extent(kShape.weight_lines())][extent(kShape.weight_line_words())];
  } in;
  float out[extent(kShape.rows)][extent(kShape.out_line())];
};

}  // namespace pepnet::cuda
