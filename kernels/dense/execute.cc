#include "dense/execute.h"

#include <algorithm>
#include <cstring>
#include <variant>

namespace pepnet::engine {
namespace {

const float* row_of(const Plan& plan, const DenseInputs& inputs, const ColumnRun& run, std::size_t row) {
  const Columns columns = columns_of(plan.config, inputs)[static_cast<std::size_t>(run.input)];
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
    if (step.shared && block_.init != nullptr) return;
    for (std::size_t r = rows_.begin; r < rows_.end; ++r) {
      gather(*block_.plan, block_.inputs, step, r, at(step.out, r));
    }
  }

  void operator()(const ProductStep& step) const {
    Product product;
    product.main = operands(step.a, step.w);
    if (step.shared_k > 0 && block_.init != nullptr) {
      product.main.init = block_.init;
      product.main.k_begin = step.shared_k;
    }
    if (step.gate_w != nullptr) product.gate = operands(step.gate_a, step.gate_w);
    product.rows = rows_.end - rows_.begin;
    product.panel_begin = panels_.begin;
    product.panel_end = std::min(panels_.end, step.w->panels);
    product.epilogue = step.epilogue;
    product.gamma = block_.plan->config.gamma;
    if (step.mul.buffer == kGeneralInput) {
      product.mul_stride = block_.plan->config.general;
      product.mul = block_.inputs.general + rows_.begin * product.mul_stride;
    } else if (!step.mul.none()) {
      product.mul = floats(step.mul);
      product.mul_stride = stride(step.mul) / sizeof(float);
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
    mix.z = floats(step.z);
    mix.z_stride = stride(step.z) / sizeof(float);
    mix.h = floats(step.h);
    mix.h_stride = stride(step.h) / sizeof(float);
    mix.rows = rows_.end - rows_.begin;
    mix.out = floats(step.out);
    mix.out_stride = stride(step.out) / sizeof(float);
    step.ops->mix(mix);
  }

  void operator()(const ScoreStep& step) const {
    const std::size_t tasks = block_.plan->config.tasks;
    step.ops->score(floats(step.h), stride(step.h) / sizeof(float), step.w->bias, step.b, step.w->out,
                    rows_.end - rows_.begin, block_.out + rows_.begin * tasks + step.task, tasks);
  }

 private:
  std::size_t stride(const Ref& ref) const { return block_.plan->buffers[ref.buffer].stride; }

  std::byte* base(BufferId buffer) const {
    return block_.scratch + block_.inputs.rows * block_.layout->offsets[buffer];
  }

  std::byte* at(const Ref& ref, std::size_t row) const {
    return base(ref.buffer) + row * stride(ref) + ref.offset;
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

std::size_t prefix_bytes(const SharedPrefix& prefix) {
  return round_up(prefix.w->in * bytes_of(prefix.columns.ops->activation), 64);
}

void take_prefix(const Plan& plan, const DenseInputs& inputs, std::byte* to) {
  gather(plan, inputs, plan.prefix->columns, 0, to);
}

void prefix_sums(const Plan& plan, const std::byte* prefix, Range panels, float* sums) {
  Product product;
  product.main.a = {prefix, 0, nullptr, nullptr};
  product.main.w = plan.prefix->w;
  product.rows = 1;
  product.panel_begin = panels.begin;
  product.panel_end = panels.end;
  product.out = sums;
  product.out_stride = plan.prefix->w->panels * kPanel * sizeof(float);
  plan.prefix->columns.ops->product(product);
}

}  // namespace pepnet::engine
