// A PEPNet as a list of launches: weights packed for the kernels, buffers, and what reads and writes which.
// All of it is made on the host, so that it can be looked at and run without a GPU.
#pragma once

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
#include "dense/tensors.h"

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
struct ProductPlan {
  std::string name;
  Product product{};  // without addresses and rows
  SidePlan main, gate;
  std::optional<std::size_t> used_by_whole;
  Place times, out;
};
struct ProductsPlan {
  std::vector<ProductPlan> products;  // of one launch

  bool gated() const { return products.front().product.epilogue == Epilogue::relu_gated; }
};
struct CopyPlan {
  struct One {
    Source from;
    int width, padded;
    Place to;
  };
  std::vector<One> copies;
};
struct MixPlan {
  Place z, h, out;
  int experts, columns, tasks;
};
struct ScorePlan {
  Place h;
  int h_group, width, tasks;
  std::size_t w, b;
};
using StepPlan = std::variant<CopyPlan, ProductsPlan, MixPlan, ScorePlan>;

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

  bool gated() const { return products.of[0].epilogue == Epilogue::relu_gated; }
};
using Launch = std::variant<ColumnCopies, ProductsLaunch, Mix, Score, Gather, Patch, Insert, Drop>;

// What the products of a launch run in, and what others took, where that was measured.
struct TileChoice {
  Tile tile;
  std::vector<std::pair<Tile, float>> microseconds;
};

// Puts the blocks of all products one after another, as a tile makes them.
void arrange(ProductsLaunch& launch, Tile tile);

class Program {
 public:
  // Throws std::length_error for a model whose widths do not fit an int.
  Program(const DenseConfig& config, const engine::ModelTensors& tensors, Precision precision);

  // To be copied to the device, 256-byte aligned.
  const std::vector<std::byte>& weights() const { return weights_; }
  std::size_t scratch_bytes(int rows) const;

  // The launches of one run, in order; `tiles` are those of its products', launch by launch. The first alone
  // reads the inputs, the last alone writes the scores: neither is of products.
  std::vector<Launch> bind(const Addresses& at, std::span<const TileChoice> tiles) const;
  Launch bind_first(const Addresses& at) const { return bind(at, steps_.front()); }
  Launch bind_last(const Addresses& at) const { return bind(at, steps_.back()); }

  // Where the columns of an input stand that begin with `column`: as many places as the first step copies it
  // to.
  std::vector<Columns> targets(const Addresses& at, Source input, int column) const;

  std::vector<const ProductsPlan*> product_launches() const;
  std::vector<StepCost> costs() const;
  const DenseConfig& config() const { return config_; }
  Precision precision() const { return precision_; }

 private:
  class Builder;

  Launch bind(const Addresses& at, const StepPlan& step) const;
  std::size_t buffer_at(int buffer, int rows) const;
  Columns columns(const Addresses& at, Place place) const;
  Product product(const Addresses& at, const ProductPlan& plan) const;

  DenseConfig config_;
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
