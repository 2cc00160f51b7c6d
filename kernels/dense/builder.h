// The building blocks of a network: columns of inputs, products, quantised rows.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "dense/pack_model.h"
#include "dense/plan.h"

namespace pepnet::engine {

// An intermediate as products read it, as float32, or both.
struct Value {
  Ref act;
  Ref floats;
  std::size_t width = 0;
};

// What is wanted of a product's result.
struct Wanted {
  bool act = false, floats = false;
};

// A product to be: the matrix and what becomes of its result.
struct Multiply {
  std::string name;
  Ref a;
  const PackedMatrix* w = nullptr;
  Epilogue epilogue = Epilogue::linear;
  Ref mul{};                             // gate_times, relu_times
  const PackedMatrix* gate_w = nullptr;  // relu_gated
  Ref gate_a{};
  std::size_t shared_k = 0;
  bool fine = false;  // float32 in, by the small ops
};

class Builder {
 public:
  Builder(const Ops& main, const Ops& small, Packer& packer)
      : main_(main), small_(small), packer_(packer), precision_(main.precision) {}

  PlanBuilder plan;

  bool quantized() const { return main_.activation == Activation::u8; }
  bool rounded() const { return main_.activation == Activation::bf16; }
  // Whether small products whose errors weigh most stay in float32: the mix, and second layers of shared
  // gates. They are 4 % of the work and a quarter of bf16's error (the variance of scores). Beside AMX
  // float32 is too slow for it.
  bool fine() const { return rounded() && main_.isa != Isa::amx; }
  const Ops& main() const { return main_; }
  const Ops& small() const { return small_; }
  // float32 or bf16: what is written before it is quantised, if it is.
  const Ops& converter() const { return quantized() ? small_ : main_; }
  std::size_t value_bytes() const { return rounded() ? 2 : 4; }
  // How far rows are padded: to whole steps of a product, or, where quantising does that, to whole panels.
  std::size_t multiple() const { return quantized() ? kPanel : k_multiple(precision_); }
  std::size_t padded(std::size_t width) const { return round_up(width, multiple()); }

  // A matrix of the main precision whose result is, or is not, read by another product.
  const PackedMatrix* matrix(const std::string& name, const float* w, std::size_t stride, const float* bias,
                             std::size_t in, std::size_t out, bool feeds, std::vector<RowRun> runs = {});
  // A matrix for the small ops; `feeds`: its result is read by a product of the main precision.
  const PackedMatrix* small_matrix(const std::string& name, const float* w, const float* bias, std::size_t in,
                                   std::size_t out, bool feeds = false);
  const float* const* vector(const float* values, std::size_t count) {
    return packer_.add_vector(values, count);
  }

  // A buffer of `columns` values that are written as activations, or as float32 that are then quantised.
  BufferId values(std::size_t columns) { return plan.buffer(columns * value_bytes()); }
  BufferId floats(std::size_t columns) { return plan.buffer(columns * sizeof(float)); }
  // The first `width` of float32 columns, quantised.
  Ref quantize(const std::string& name, Ref from, std::size_t width);

  // To buffers of its own.
  Value multiply(const Multiply& what, Wanted wanted);
  // To `out`, in the format of `values`, with a float32 copy to `copy` unless that is none.
  void multiply_to(const Multiply& what, Ref out, Ref copy = {});
  // In float32, to `out`.
  void multiply_floats(const Multiply& what, Ref out);
  // By the small ops.
  Ref multiply_small(const Multiply& what);

 private:
  ProductStep product(const Multiply& what) const;

  const Ops& main_;
  const Ops& small_;
  Packer& packer_;
  Precision precision_;
};

}  // namespace pepnet::engine
