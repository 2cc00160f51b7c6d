// A network as a list of launches: weights packed for the kernels, buffers, and what reads and writes which.
// All of it is made on the host, so that it can be looked at and run without a GPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cuda/product.h"
#include "cuda/row_table.h"
#include "cuda/rowwise.h"
#include "dense/dense_model.h"
#include "network/network.h"

namespace pepnet::cuda {

// Some columns of a buffer.
struct Place {
  int buffer = -1;
  int column = 0;
};

// A matrix [rows, stride] of scratch memory.
struct BufferSpec {
  int stride;
  Precision precision;
};

enum class Source : int { general, domain, prior };

// The launches, with places instead of addresses: offsets of weights are in bytes.
struct SidePlan {
  Place a;
  std::size_t w = 0, bias = 0;
};
// Columns of each group, `group` apart.
struct GroupsPlace {
  Place at;
  int group = 0;
};
struct ProductPlan {
  std::string name;
  Product product{};  // without addresses and rows
  SidePlan main, gate;
  std::optional<std::size_t> slope, used_by_whole;
  GroupsPlace times, plus, out, also;
};
struct ProductsPlan {
  std::vector<ProductPlan> products;  // of one launch

  bool gated() const { return products.front().product.gated; }
};
struct CopyPlan {
  struct One {
    std::variant<Source, Place> from;
    int begin, width, padded;  // begin: the first column of an input
    Place to;
  };
  std::vector<One> copies;
};
struct MixPlan {
  GroupsPlace z;
  Place h, out, also;
  std::optional<std::size_t> choices;
  int experts, columns, tasks;
};
struct ScorePlan {
  Place h;
  int h_group, width, tasks;
  std::size_t w, b;
  int column;  // of the scores
};
struct RowsPlan {
  struct Operand {
    GroupsPlace place;
    int groups, width;
  };
  std::string name;
  RowWork work{};  // without addresses and rows
  std::vector<Operand> reads;
  GroupsPlace out, also;
  std::optional<int> score;  // the first column of the scores, which it writes in place of `out`
  std::optional<std::size_t> w, b;
};
using StepPlan = std::variant<CopyPlan, ProductsPlan, MixPlan, RowsPlan, ScorePlan>;

// What a step costs for one row, and once for all.
struct StepCost {
  std::string name;
  std::size_t launch;   // of those of products
  double flops;         // a row
  double weight_bytes;  // once
};

// The addresses of one run.
struct Addresses {
  const std::byte* weights;
  std::byte* scratch;      // of scratch_bytes(rows)
  const float* inputs[3];  // by `Source`
  float* scores;           // [rows, tasks]
  int rows;                // of the scratch memory, and what all steps but the first and the last run with
  int live;                // of the inputs and scores, at most `rows`
};

struct Block {
  unsigned grid[3];
  unsigned threads;
  std::size_t shared_bytes;
};

struct ProductsLaunch {
  Products products;
  Precision precision;
  Tile tile;
  unsigned blocks;

  bool gated() const { return products.of[0].gated; }
};
using Launch = std::variant<ColumnCopies, ProductsLaunch, Mix, RowWork, Score, Gather, Patch, Insert, Drop>;

// What the products of a launch run in, and what others took, where that was measured.
struct TileChoice {
  Tile tile;
  std::vector<std::pair<Tile, float>> microseconds;
};

// Puts the blocks of all products one after another, as a tile makes them.
void arrange(ProductsLaunch& launch, Tile tile);

class Program {
 public:
  // Throws std::length_error that names what does not fit: widths an int, an operation a block's memory.
  Program(const network::Network& network, const Tensors& tensors, Precision precision);

  // To be copied to the device, 256-byte aligned.
  const std::vector<std::byte>& weights() const { return weights_; }
  std::size_t scratch_bytes(int rows) const;

  // The launches of one run, in order; `tiles` are those of its products', launch by launch. The first ones
  // alone read the inputs, the last ones alone write the scores: none of them are of products.
  std::vector<Launch> bind(const Addresses& at, std::span<const TileChoice> tiles) const;
  std::vector<Launch> bind_first(const Addresses& at) const { return bind_steps(at, 0, first_); }
  std::vector<Launch> bind_last(const Addresses& at) const {
    return bind_steps(at, steps_.size() - last_, steps_.size());
  }
  // How many launches they are.
  std::size_t first() const { return first_; }
  std::size_t last() const { return last_; }

  // Where columns [begin, end) of an input stand: as many places as the first steps copy them to. None where
  // some of them go to a place without the others.
  std::optional<std::vector<Columns>> targets(const Addresses& at, Source input, int begin, int end) const;

  std::vector<const ProductsPlan*> product_launches() const;
  std::vector<StepCost> costs() const;
  const std::array<std::size_t, 3>& widths() const { return widths_; }  // of the inputs
  std::size_t scores() const { return scores_; }                        // columns of a row
  Precision precision() const { return precision_; }

 private:
  friend class Lowering;

  std::vector<Launch> bind_steps(const Addresses& at, std::size_t begin, std::size_t end) const;
  Launch bind(const Addresses& at, const StepPlan& step) const;
  Launch bind(const Addresses& at, const CopyPlan& plan) const;
  Launch bind(const Addresses& at, const ProductsPlan& plan) const;
  Launch bind(const Addresses& at, const MixPlan& plan) const;
  Launch bind(const Addresses& at, const RowsPlan& plan) const;
  Launch bind(const Addresses& at, const ScorePlan& plan) const;
  std::size_t buffer_at(int buffer, int rows) const;
  Columns columns(const Addresses& at, Place place) const;
  Beside beside(const Addresses& at, const GroupsPlace& place) const;
  Product product(const Addresses& at, const ProductPlan& plan) const;

  std::array<std::size_t, 3> widths_{};
  std::size_t scores_ = 0, first_ = 0, last_ = 0;
  Precision precision_;
  std::vector<std::byte> weights_;
  std::vector<BufferSpec> buffers_;
  std::vector<StepPlan> steps_;
};

// Whether `columns` and their rows begin at a multiple of four numbers.
inline bool in_fours(const Columns& columns) {
  const std::size_t bytes = 4 * bytes_of(columns.precision);
  return reinterpret_cast<std::uintptr_t>(columns.first) % bytes == 0 && columns.stride % 4 == 0;
}

Block block_of(const Launch& launch);

}  // namespace pepnet::cuda
