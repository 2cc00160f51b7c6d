#include "dense/execute.h"

#include <algorithm>
#include <cstring>
#include <variant>

namespace pepnet::engine {
namespace {

const float* row_of(const Plan& plan, const DenseInputs& inputs, const ColumnRun& run, std::size_t row) {
  const Columns columns = columns_of(plan.widths, inputs)[run.input];
  return columns.data + row * columns.width + run.begin;
}

// One row of a ColumnsStep.
void gather(const Plan& plan, const DenseInputs& inputs, const ColumnsStep& step, std::size_t row,
            std::byte* to) {
  if (step.runs.size() == 1) {
    const ColumnRun& run = step.runs.front();
    step.ops->convert(row_of(plan, inputs, run, row), run.count, to, step.padded);
    return;
  }
  // In pieces that stay in the first-level cache. Only the last one is padded.
  constexpr std::size_t kPiece = 512;
  alignas(64) float piece[kPiece];
  const std::size_t bytes = bytes_of(step.ops->activation);
  std::size_t filled = 0;
  std::size_t done = 0;
  for (const ColumnRun& run : step.runs) {
    const float* from = row_of(plan, inputs, run, row);
    for (std::size_t left = run.count; left > 0;) {
      const std::size_t count = std::min(left, kPiece - filled);
      std::memcpy(piece + filled, from, count * sizeof(float));
      from += count;
      left -= count;
      filled += count;
      if (filled == kPiece) {
        step.ops->convert(piece, kPiece, to + done * bytes, kPiece);
        done += kPiece;
        filled = 0;
      }
    }
  }
  if (done < step.padded) step.ops->convert(piece, filled, to + done * bytes, step.padded - done);
}

class Doer {
 public:
  Doer(const Block& block, Range rows, Range panels) : block_(block), rows_(rows), panels_(panels) {}

  void operator()(const ColumnsStep& step) const {
    if (step.shared && block_.sums != nullptr) return;
    for (std::size_t r = rows_.begin; r < rows_.end; ++r) {
      gather(*block_.plan, block_.inputs, step, r, at(step.out, r));
    }
  }

  void operator()(const ProductStep& step) const {
    Product product;
    product.main = operands(step.a, step.w);
    if (step.prefix && block_.sums != nullptr) {
      const SharedPrefix& prefix = block_.plan->prefixes[*step.prefix];
      product.main.init = block_.sums + prefix.first_panel * kPanel;
      product.main.k_begin = prefix.k;
    }
    if (step.gate_w != nullptr) product.gate = operands(step.gate_a, step.gate_w);
    product.rows = rows_.end - rows_.begin;
    product.panel_begin = panels_.begin;
    product.panel_end = std::min(panels_.end, step.w->panels);
    product.epilogue = step.epilogue;
    product.function = step.function;
    product.alpha = step.alpha;
    product.slope = step.slope == nullptr ? nullptr : step.slope->bias;
    product.factor = step.factor;
    product.gamma = step.gamma;
    if (!step.mul.none()) {
      const FloatRows mul = rows_of(step.mul);
      product.mul = mul.data;
      product.mul_stride = mul.stride;
    }
    if (!step.plus.none()) {
      const FloatRows plus = rows_of(step.plus);
      product.plus = plus.data;
      product.plus_stride = plus.stride;
    }
    product.out = at(step.out, rows_.begin);
    product.out_stride = stride(step.out);
    product.out_bf16 = step.out_bf16;
    if (!step.out2.none()) {
      product.out2 = floats(step.out2);
      product.out2_stride = stride(step.out2) / sizeof(float);
    }
    step.ops->product(product);
  }

  void operator()(const QuantizeStep& step) const {
    float* const scale = scales(step.to.buffer);
    std::int32_t* const zero = zeros(step.to.buffer);
    for (std::size_t r = rows_.begin; r < rows_.end; ++r) {
      step.ops->quantize(reinterpret_cast<const float*>(at(step.from, r)), step.width,
                         reinterpret_cast<std::uint8_t*>(at(step.to, r)), step.padded, scale + r, zero + r);
    }
  }

  void operator()(const MixStep& step) const {
    Mix mix = step.mix;
    const FloatRows z = rows_of(step.z);
    mix.z = z.data;
    mix.z_stride = z.stride;
    mix.h = floats(step.h);
    mix.h_stride = stride(step.h) / sizeof(float);
    mix.rows = rows_.end - rows_.begin;
    mix.out = floats(step.out);
    mix.out_stride = stride(step.out) / sizeof(float);
    step.ops->mix(mix);
  }

  void operator()(const ScoreStep& step) const {
    const FloatRowsOut scores = scores_from(step.column);
    const FloatRows h = rows_of(step.h);
    step.ops->score(h.data, h.stride, step.w->bias, step.b, step.w->out, rows_.end - rows_.begin, scores.data,
                    scores.stride);
  }

  void operator()(const CopyStep& step) const {
    const FloatRows from = rows_of(step.from);
    for (std::size_t r = rows_.begin; r < rows_.end; ++r)
      step.ops->convert(from.row(r - rows_.begin), step.width, at(step.to, r), step.padded);
  }

  void operator()(const RowStep& step) const {
    std::array<FloatRows, kMostReads> reads;
    for (std::size_t i = 0; i < step.reads.size(); ++i) reads[i] = rows_of(step.reads[i]);
    const FloatRowsOut out = step.out.none()
                                 ? scores_from(step.column)
                                 : FloatRowsOut{floats(step.out), stride(step.out) / sizeof(float)};
    const std::size_t rows = rows_.end - rows_.begin;
    step.does->run({reads.data(), step.reads.size()}, out, rows);
    if (step.padded == step.width) return;
    for (std::size_t r = 0; r < rows; ++r) std::fill(out.row(r) + step.width, out.row(r) + step.padded, 0.0F);
  }

 private:
  std::size_t stride(const Ref& ref) const { return block_.plan->buffers[ref.buffer].stride; }

  std::byte* base(BufferId buffer) const {
    return block_.scratch + block_.inputs.rows * block_.layout->offsets[buffer];
  }

  std::byte* at(const Ref& ref, std::size_t row) const {
    return base(ref.buffer) + row * stride(ref) + ref.offset;
  }

  // From the first of the rows on.
  FloatRows rows_of(const Ref& ref) const {
    if (!ref.input()) return {floats(ref), stride(ref) / sizeof(float)};
    const Columns input = columns_of(block_.plan->widths, block_.inputs)[ref.buffer - kInputBuffers];
    return {input.data + rows_.begin * input.width + ref.offset / sizeof(float), input.width};
  }
  FloatRowsOut scores_from(std::size_t column) const {
    const std::size_t scores = block_.plan->scores;
    return {block_.out + rows_.begin * scores + column, scores};
  }

  float* floats(const Ref& ref) const { return reinterpret_cast<float*>(at(ref, rows_.begin)); }

  // Behind the rows of a quantised buffer.
  float* scales(BufferId buffer) const {
    return reinterpret_cast<float*>(base(buffer) + block_.inputs.rows * block_.plan->buffers[buffer].stride);
  }
  std::int32_t* zeros(BufferId buffer) const {
    return reinterpret_cast<std::int32_t*>(scales(buffer) + block_.inputs.rows);
  }

  Operands operands(const Ref& a, const PackedMatrix* w) const {
    Operands operands;
    operands.a.data = at(a, rows_.begin);
    operands.a.stride = stride(a);
    if (block_.plan->buffers[a.buffer].quantized) {
      operands.a.scale = scales(a.buffer) + rows_.begin;
      operands.a.zero = zeros(a.buffer) + rows_.begin;
    }
    operands.w = w;
    return operands;
  }

  const Block& block_;
  Range rows_, panels_;  // panels are for products
};

}  // namespace

void do_steps(const Block& block, std::size_t first, std::size_t last, Range rows) {
  const Doer doer(block, rows, {0, ~std::size_t{0}});
  for (std::size_t i = first; i < last; ++i) std::visit(doer, block.plan->steps[i]);
}

std::size_t units_of(const Stage& stage, std::size_t rows) {
  return stage.product_units + stage.chains.size() * ((rows + kChainRows - 1) / kChainRows);
}

void do_units(const Block& block, const Stage& stage, Range units) {
  const std::size_t rows = block.inputs.rows;
  for (std::size_t i = 0; i < stage.products.size() && units.begin < stage.product_units; ++i) {
    const Stage::Item& item = stage.products[i];
    const std::size_t end =
        i + 1 < stage.products.size() ? stage.products[i + 1].first_unit : stage.product_units;
    const std::size_t last = std::min(end, units.end);
    if (units.begin >= last) continue;
    const Range panels{(units.begin - item.first_unit) * kUnitPanels, (last - item.first_unit) * kUnitPanels};
    std::visit(Doer(block, {0, rows}, panels), block.plan->steps[item.step]);
    units.begin = last;
  }
  const std::size_t pieces = (rows + kChainRows - 1) / kChainRows;
  for (std::size_t unit = units.begin; unit < units.end; ++unit) {
    const std::size_t number = unit - stage.product_units;
    const Chain& chain = stage.chains[number / pieces];
    const std::size_t begin = number % pieces * kChainRows;
    do_steps(block, chain.first, chain.last, {begin, std::min(begin + kChainRows, rows)});
  }
}

namespace {

std::size_t shared_bytes(const ColumnsStep& columns) {
  return round_up(columns.padded * bytes_of(columns.ops->activation), 64);
}

// Where the columns of that number begin.
std::size_t shared_at(const Plan& plan, std::size_t number) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < number; ++i) at += shared_bytes(plan.shared_columns[i]);
  return at;
}

}  // namespace

std::size_t shared_bytes(const Plan& plan) { return shared_at(plan, plan.shared_columns.size()); }

void take_shared(const Plan& plan, const DenseInputs& inputs, std::byte* to) {
  for (std::size_t i = 0; i < plan.shared_columns.size(); ++i)
    gather(plan, inputs, plan.shared_columns[i], 0, to + shared_at(plan, i));
}

void prefix_sums(const Plan& plan, const std::byte* shared, Range panels, float* sums) {
  for (const SharedPrefix& prefix : plan.prefixes) {
    const std::size_t last = prefix.first_panel + prefix.w->panels;
    if (panels.end <= prefix.first_panel || panels.begin >= last) continue;
    Product product;
    product.main.a = {shared + shared_at(plan, prefix.columns), 0, nullptr, nullptr};
    product.main.w = prefix.w;
    product.rows = 1;
    product.panel_begin = std::max(panels.begin, prefix.first_panel) - prefix.first_panel;
    product.panel_end = std::min(panels.end, last) - prefix.first_panel;
    product.out = sums + prefix.first_panel * kPanel;
    product.out_stride = prefix.w->panels * kPanel * sizeof(float);
    plan.shared_columns[prefix.columns].ops->product(product);
  }
}

}  // namespace pepnet::engine
