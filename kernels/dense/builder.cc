#include "dense/builder.h"

#include <utility>

namespace pepnet::engine {

const PackedMatrix* Builder::matrix(const std::string& name, const float* w, std::size_t stride,
                                    const float* bias, std::size_t in, std::size_t out, bool feeds,
                                    std::vector<RowRun> runs) {
  if (runs.empty()) runs.push_back({0, in, 0});
  MatrixSpec spec{name,
                  w,
                  static_cast<std::ptrdiff_t>(stride),
                  bias,
                  in,
                  out,
                  std::move(runs),
                  feeds ? multiple() : kPanel};
  return packer_.add(std::move(spec), precision_);
}

const PackedMatrix* Builder::small_matrix(const std::string& name, const float* w, const float* bias,
                                          std::size_t in, std::size_t out, bool feeds) {
  MatrixSpec spec{
      name, w, static_cast<std::ptrdiff_t>(out), bias, in, out, {{0, in, 0}}, feeds ? multiple() : kPanel};
  return packer_.add(std::move(spec), Precision::fp32);
}

Ref Builder::quantize(const std::string& name, Ref from, std::size_t width) {
  const std::size_t columns = round_up(width, k_multiple(precision_));
  const Ref to{plan.buffer(columns, true), 0};
  plan.add(name, QuantizeStep{&main_, from, to, width, columns});
  return to;
}

ProductStep Builder::product(const Multiply& what) const {
  ProductStep step;
  step.ops = what.fine ? &small_ : &main_;
  step.epilogue = what.epilogue;
  step.w = what.w;
  step.a = what.a;
  step.gate_w = what.gate_w;
  step.gate_a = what.gate_a;
  step.mul = what.mul;
  step.shared_k = what.shared_k;
  return step;
}

Value Builder::multiply(const Multiply& what, Wanted wanted) {
  const std::size_t columns = what.w->panels * kPanel;
  Value value;
  value.width = what.w->out;
  if (rounded() && wanted.act) {
    value.act = {values(columns), 0};
    if (wanted.floats) value.floats = {floats(columns), 0};
    multiply_to(what, value.act, value.floats);
    return value;
  }
  value.floats = {floats(columns), 0};
  multiply_floats(what, value.floats);
  if (!quantized()) {
    if (!rounded()) value.act = value.floats;
  } else if (wanted.act) {
    value.act = quantize(what.name, value.floats, value.width);
  }
  return value;
}

void Builder::multiply_to(const Multiply& what, Ref out, Ref copy) {
  ProductStep step = product(what);
  step.out = out;
  step.out2 = copy;
  step.out_bf16 = rounded();
  plan.add(what.name, step);
}

void Builder::multiply_floats(const Multiply& what, Ref out) {
  ProductStep step = product(what);
  step.out = out;
  plan.add(what.name, step);
}

Ref Builder::multiply_small(const Multiply& what) {
  ProductStep step = product(what);
  step.ops = &small_;
  step.out = {floats(what.w->panels * kPanel), 0};
  plan.add(what.name, step);
  return step.out;
}

}  // namespace pepnet::engine
