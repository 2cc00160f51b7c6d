// A network as a list of steps over rows of scratch, and how its columns may be split.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "dense/ops.h"
#include "dense/pack.h"
#include "dense/tensors.h"

namespace pepnet::engine {

using BufferId = std::uint32_t;
inline constexpr BufferId kNoBuffer = 0xFFFFFFFFU;
inline constexpr BufferId kGeneralInput = 0xFFFFFFFEU;  // the caller's `general`, where it lies

// Rows of one intermediate.
struct Buffer {
  std::size_t stride = 0;  // bytes, a multiple of 64
  bool quantized = false;  // followed by a scale and a zero point for each row
  std::size_t bytes() const { return stride + (quantized ? 64 : 0); }  // for one row
};

// The columns of a buffer from `offset` bytes on.
struct Ref {
  BufferId buffer = kNoBuffer;
  std::size_t offset = 0;
  bool none() const { return buffer == kNoBuffer; }
};

enum class Input : std::uint8_t { general, domain, prior };

struct ColumnRun {
  Input input;
  std::size_t begin, count;
};

// Columns of the inputs one after the other, as activations of `ops`, zeros up to `padded`.
struct ColumnsStep {
  const Ops* ops = nullptr;
  std::vector<ColumnRun> runs;
  std::size_t padded = 0;
  Ref out;
  bool shared = false;  // left out when a run's rows share these columns
};

struct ProductStep {
  const Ops* ops = nullptr;
  Epilogue epilogue = Epilogue::linear;
  const PackedMatrix* w = nullptr;
  Ref a{};
  const PackedMatrix* gate_w = nullptr;
  Ref gate_a{};
  Ref mul{}, out{}, out2{};
  bool out_bf16 = false;
  std::size_t shared_k = 0;  // values of k whose sums a run's rows may share
};

struct QuantizeStep {
  const Ops* ops = nullptr;
  Ref from, to;
  std::size_t width = 0, padded = 0;
};

struct MixStep {
  const Ops* ops = nullptr;
  Ref z, h, out;
  Mix mix;  // but for rows and addresses
};

struct ScoreStep {
  const Ops* ops = nullptr;
  Ref h;
  const PackedMatrix* w = nullptr;  // no rows: the weights are its bias
  float b = 0.0F;
  std::size_t task = 0;
};

using Step = std::variant<ColumnsStep, ProductStep, QuantizeStep, MixStep, ScoreStep>;

// Steps [first, last) that one thread does one after the other for some rows.
struct Chain {
  std::size_t first, last;
};

// What needs no barrier in between.
struct Stage {
  struct Item {
    std::size_t step;
    std::size_t first_unit;
  };
  std::vector<Item> products;  // split by columns
  std::size_t product_units = 0;
  std::vector<Chain> chains;  // split by rows
};

// Sums of EPNet's first product that all rows of a run may start from.
struct SharedPrefix {
  ColumnsStep columns;              // of the first row; `out` is not used
  const PackedMatrix* w = nullptr;  // bias zero
};

struct Plan {
  std::vector<Step> steps;  // in the order in which one thread does them all
  std::vector<Buffer> buffers;
  std::vector<Stage> stages;
  std::optional<SharedPrefix> prefix;
  DenseConfig config;
};

// Panels in one unit of a product that is split by columns.
inline constexpr std::size_t kUnitPanels = 4;
// Rows in one unit of a chain.
inline constexpr std::size_t kChainRows = 8;

// Calls f(ref, written) for every buffer that a step touches.
template <class F>
void each_ref(const Step& step, F f) {
  const auto visit = [&](const Ref& ref, bool written) {
    if (ref.buffer != kNoBuffer && ref.buffer != kGeneralInput) f(ref, written);
  };
  if (const auto* columns = std::get_if<ColumnsStep>(&step)) {
    visit(columns->out, true);
  } else if (const auto* product = std::get_if<ProductStep>(&step)) {
    for (const Ref& ref : {product->a, product->gate_a, product->mul}) visit(ref, false);
    for (const Ref& ref : {product->out, product->out2}) visit(ref, true);
  } else if (const auto* quantize = std::get_if<QuantizeStep>(&step)) {
    visit(quantize->from, false);
    visit(quantize->to, true);
  } else if (const auto* mix = std::get_if<MixStep>(&step)) {
    for (const Ref& ref : {mix->z, mix->h}) visit(ref, false);
    visit(mix->out, true);
  } else {
    visit(std::get<ScoreStep>(step).h, false);
  }
}

// The offsets of intermediates in scratch memory. Intermediates that are never alive together share memory.
// For `rows` rows buffer b begins at rows * offsets[b], so one layout serves any number of rows, without
// gaps.
struct Layout {
  std::vector<std::size_t> offsets;
  std::size_t row_bytes = 0;
};

// For threads that meet between stages, or else go through the steps on their own.
Layout lay_out(const Plan& plan, bool by_stages);

// Takes steps in an order that is right for one thread, and finds the earliest stage of each.
class PlanBuilder {
 public:
  Plan plan;  // steps, buffers and stages are the builder's to fill

  // `bytes` of a row are padded to an odd number of cache lines: rows at a power of two apart would share few
  // sets of a cache.
  BufferId buffer(std::size_t bytes, bool quantized = false);

  // Steps until `end_chain` are done for some rows by one thread: work too small to be split by columns.
  void begin_chain();
  void add(Step step);
  void end_chain();

 private:
  void place(std::size_t first, bool by_columns);

  std::vector<std::size_t> ready_;    // by buffer: the first stage that may read it
  std::optional<std::size_t> chain_;  // the first step of the one that has begun
};

// From flags and tensors to packed weights and a plan, in network.cc. The plan's weights are in `packer`,
// which is left for the caller to finish.
Plan build_network(const DenseConfig& config, const ModelTensors& tensors, const Ops& main, const Ops& small,
                   const DenseOptions& options, Packer& packer);

}  // namespace pepnet::engine
