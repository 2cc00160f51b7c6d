// A network as a list of steps over rows of scratch, and how its columns may be split.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "dense/ops.h"
#include "dense/pack.h"

namespace pepnet::engine {

using BufferId = std::uint32_t;
inline constexpr BufferId kNoBuffer = 0xFFFFFFFFU;
inline constexpr BufferId kInputBuffers =
    0xFFFFFFF0U;  // and the next two: the caller's inputs, where they lie

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
  bool input() const { return buffer >= kInputBuffers && !none(); }
};

// The columns of an input from `column` on.
inline Ref input_ref(std::size_t input, std::size_t column) {
  return {kInputBuffers + static_cast<BufferId>(input), column * sizeof(float)};
}

struct ColumnRun {
  std::size_t input;  // 0 general, 1 domain, 2 prior
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
  network::Function function = network::Function::identity;
  float alpha = 0.0F;
  const PackedMatrix* slope = nullptr;  // no rows: the slopes are its bias
  Factor factor = Factor::none;
  const PackedMatrix* w = nullptr;
  Ref a{};
  const PackedMatrix* gate_w = nullptr;
  Ref gate_a{};
  Ref mul{}, plus{}, out{}, out2{};
  bool out_bf16 = false;
  float gamma = 1.0F;
  std::optional<std::size_t> prefix =
      std::nullopt;  // the number of the sums that a run's rows may start from
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
  std::size_t column = 0;  // of the scores
};

// Float32 columns to other columns, as activations of `ops`, zeros up to `padded`.
struct CopyStep {
  const Ops* ops = nullptr;
  Ref from, to;
  std::size_t width = 0, padded = 0;
};

// Rows of float32: row r at data + r * stride.
template <class T>
struct RowsOf {
  T* data = nullptr;
  std::size_t stride = 0;  // floats
  T* row(std::size_t r) const { return data + r * stride; }
};
using FloatRows = RowsOf<const float>;
using FloatRowsOut = RowsOf<float>;

// An operation on single rows, which reads and writes float32.
class RowOperation {
 public:
  virtual ~RowOperation() = default;
  // `reads` are in the order of the step's.
  virtual void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
                   std::size_t rows) const noexcept = 0;
};

// Columns that a row step may read from different places.
inline constexpr std::size_t kMostReads = 2;

struct RowStep {
  std::shared_ptr<const RowOperation> does;
  std::vector<Ref> reads;
  Ref out;  // none: the scores from `column` on
  std::size_t column = 0;
  std::size_t width = 0, padded = 0;  // of the result: zeros follow up to `padded`
};

using Step = std::variant<ColumnsStep, ProductStep, QuantizeStep, MixStep, ScoreStep, CopyStep, RowStep>;

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

// Sums of a product over columns that a request may give once: what all rows of a run may start from.
struct SharedPrefix {
  std::size_t columns = 0;          // the number of the columns
  const PackedMatrix* w = nullptr;  // bias zero
  std::size_t k = 0;                // values of k that the sums are over
  std::size_t first_panel = 0;      // within the panels of all prefixes
};

struct Plan {
  std::vector<Step> steps;  // in the order in which one thread does them all
  std::vector<Buffer> buffers;
  std::vector<Stage> stages;
  std::vector<ColumnsStep> shared_columns;  // of the first row; `out` is not used
  std::vector<SharedPrefix> prefixes;
  std::size_t prefix_panels = 0;        // of all of them
  std::array<std::size_t, 3> widths{};  // of general, domain and prior
  std::size_t scores = 0;               // columns of the result
};

// Panels in one unit of a product that is split by columns.
inline constexpr std::size_t kUnitPanels = 4;
// Rows in one unit of a chain.
inline constexpr std::size_t kChainRows = 8;

// Calls f(ref, written) for every buffer that a step touches.
template <class F>
void each_ref(const Step& step, F f) {
  const auto visit = [&](const Ref& ref, bool written) {
    if (ref.buffer < kInputBuffers) f(ref, written);
  };
  if (const auto* columns = std::get_if<ColumnsStep>(&step)) {
    visit(columns->out, true);
  } else if (const auto* product = std::get_if<ProductStep>(&step)) {
    for (const Ref& ref : {product->a, product->gate_a, product->mul, product->plus}) visit(ref, false);
    for (const Ref& ref : {product->out, product->out2}) visit(ref, true);
  } else if (const auto* quantize = std::get_if<QuantizeStep>(&step)) {
    visit(quantize->from, false);
    visit(quantize->to, true);
  } else if (const auto* mix = std::get_if<MixStep>(&step)) {
    for (const Ref& ref : {mix->z, mix->h}) visit(ref, false);
    visit(mix->out, true);
  } else if (const auto* score = std::get_if<ScoreStep>(&step)) {
    visit(score->h, false);
  } else if (const auto* copy = std::get_if<CopyStep>(&step)) {
    visit(copy->from, false);
    visit(copy->to, true);
  } else {
    const auto& rows = std::get<RowStep>(step);
    for (const Ref& ref : rows.reads) visit(ref, false);
    visit(rows.out, true);
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
  // Returns whether one has begun: false within another, whose end is the end.
  bool begin_chain();
  void add(Step step);
  void end_chain();

 private:
  void place(std::size_t first, bool by_columns);

  std::vector<std::size_t> ready_;    // by buffer: the first stage that may read it
  std::optional<std::size_t> chain_;  // the first step of the one that has begun
};

}  // namespace pepnet::engine
