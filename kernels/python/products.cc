// Products of matrices by the kernels, for people with a network of their own, and which kernels run here.
#include <cmath>
#include <cstring>
#include <memory>

#include "arrays.h"
#include "cpu/named.h"
#include "cpu/round_up.h"
#include "dense/dispatch.h"
#include "dense/pack.h"

namespace pepnet::python {

namespace {

// Zeroed memory that begins at a cache line.
struct alignas(64) Line {
  std::byte bytes[64];
};
using Lines = std::vector<Line>;
Lines lines_for(std::size_t bytes) { return Lines(bytes / sizeof(Line) + 1); }

// A matrix as the kernels read it. What `matrix` points to stays where it is when this is moved.
struct PackedWeights {
  Lines memory;
  PackedMatrix matrix;
  std::size_t in, bytes;  // `in` before padding
};

// What a call of Python's names by one word.
struct Fused {
  Epilogue epilogue;
  Factor factor;
  bool operator==(const Fused&) const = default;
};
constexpr Named<Fused> kEpilogues[] = {
    {"linear", {Epilogue::linear, Factor::none}},   {"relu", {Epilogue::relu, Factor::none}},
    {"gate", {Epilogue::gate, Factor::none}},       {"gate_times", {Epilogue::gate, Factor::rows}},
    {"relu_times", {Epilogue::relu, Factor::rows}}, {"relu_gated", {Epilogue::relu, Factor::gated}}};

py::list isas() {
  py::list result;
  for (const Candidate& candidate : candidates()) {
    result.append(py::dict("isa"_a = name_of(candidate.isa), "precision"_a = name_of(candidate.precision),
                           "built"_a = candidate.ops != nullptr, "usable"_a = candidate.usable,
                           "how"_a = candidate.ops == nullptr ? "" : candidate.ops->how,
                           "why"_a = candidate.why));
  }
  return result;
}

py::dict choice(const std::string& precision, const std::string& isa) {
  const Choice chosen = choose(precision_named(precision), isa);
  return py::dict("isa"_a = name_of(chosen.ops->isa), "how"_a = chosen.ops->how, "why"_a = chosen.why);
}

void expect_finite(const char* name, const float* values, std::size_t count, std::size_t row) {
  for (std::size_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i])) continue;
    throw py::value_error(std::string(name) + ": expected finite numbers, got " + std::to_string(values[i]) +
                          " in row " + std::to_string(row) + ", column " + std::to_string(i));
  }
}

std::unique_ptr<PackedWeights> pack_array(const py::array& w, const std::optional<py::array>& b,
                                          const std::string& precision) {
  const MatrixView from = matrix_of("w", w);
  if (from.rows == 0 || from.columns == 0) refuse("w", "[in, out] of at least one row and column", w);
  std::vector<float> bias(from.columns, 0.0F);
  if (b) {
    const PackedArray<float> given = default_of("b", *b, from.columns);
    for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = given[i];
  }
  const Precision format = precision_named(precision);
  const ReleasedGil released;
  for (std::size_t r = 0; r < from.rows; ++r) expect_finite("w", from.row(r), from.columns, r);
  expect_finite("b", bias.data(), bias.size(), 0);
  const MatrixSpec spec{.name = "w",
                        .w = from.data,
                        .stride = from.stride,
                        .bias = bias.data(),
                        .in = from.rows,
                        .out = from.columns};
  const std::size_t bytes = packed_bytes(spec, format);
  auto packed = std::make_unique<PackedWeights>(PackedWeights{lines_for(bytes), {}, from.rows, bytes});
  packed->matrix = pack(spec, format, packed->memory.data()->bytes);
  return packed;
}

// Rows of activations in the format of a table, with all that `Rows` points to.
struct Activations {
  Activations(const Ops& ops, const MatrixView& x)
      : stride(round_up(x.columns, k_multiple(ops.precision)) * bytes_of(ops.activation)),
        memory(lines_for(x.rows * stride)),
        scale(x.rows),
        zero(x.rows) {
    const std::size_t padded = stride / bytes_of(ops.activation);
    for (std::size_t r = 0; r < x.rows; ++r) {
      std::byte* const to = memory.data()->bytes + r * stride;
      if (ops.activation == Activation::u8) {
        ops.quantize(x.row(r), x.columns, reinterpret_cast<std::uint8_t*>(to), padded, &scale[r], &zero[r]);
      } else {
        ops.convert(x.row(r), x.columns, to, padded);
      }
    }
  }
  Rows rows() { return {memory.data()->bytes, stride, scale.data(), zero.data()}; }

  std::size_t stride;
  Lines memory;
  std::vector<float> scale;
  std::vector<std::int32_t> zero;
};

MatrixView factor_of(const Ops& ops, const char* name, const py::array& array, const PackedWeights& packed,
                     const char* packed_name) {
  const MatrixView view = matrix_of(name, array);
  if (packed.matrix.precision != ops.precision) {
    throw py::value_error(std::string(packed_name) + ": expected weights packed as " +
                          name_of(ops.precision) + ", got " + name_of(packed.matrix.precision));
  }
  if (view.columns != packed.in) refuse(name, std::to_string(packed.in) + " columns", array);
  return view;
}

// Kernels check nothing: what is passed is checked here.
py::array_t<float> product(const Ops& ops, const py::array& a, const PackedWeights& packed,
                           const std::string& epilogue, const std::optional<py::array>& mul, float gamma,
                           const std::optional<py::array>& gate_a, const PackedWeights* gate_packed) {
  const PackedMatrix& w = packed.matrix;
  const MatrixView x = factor_of(ops, "a", a, packed, "packed");
  Product call;
  const Fused fused = value_named("epilogue", kEpilogues, epilogue);
  call.epilogue = fused.epilogue;
  call.factor = fused.factor;
  call.gamma = gamma;
  call.rows = x.rows;
  call.panel_end = w.panels;
  call.main.w = &w;
  const bool times = fused.factor == Factor::rows;
  if (times != mul.has_value())
    throw py::value_error("mul: expected with gate_times and relu_times, and only there; the epilogue is " +
                          epilogue);
  if (times) {
    const MatrixView view = matrix_of("mul", *mul);
    if (view.rows != x.rows || view.columns != w.out)
      refuse("mul", "[" + std::to_string(x.rows) + ", " + std::to_string(w.out) + "]", *mul);
    call.mul = view.data;
    call.mul_stride = view.stride;
  }
  const bool gated = fused.factor == Factor::gated;
  if (gated != gate_a.has_value() || gated != (gate_packed != nullptr))
    throw py::value_error("gate_a, gate_packed: expected with relu_gated, and only there; the epilogue is " +
                          epilogue);
  MatrixView u;
  if (gated) {
    u = factor_of(ops, "gate_a", *gate_a, *gate_packed, "gate_packed");
    call.gate.w = &gate_packed->matrix;
    if (u.rows != x.rows || call.gate.w->out != w.out) {
      throw py::value_error("gate_a, gate_packed: expected " + std::to_string(x.rows) + " rows and " +
                            std::to_string(w.out) + " columns, got " + std::to_string(u.rows) + " and " +
                            std::to_string(call.gate.w->out));
    }
  }
  py::array_t<float> result({static_cast<py::ssize_t>(x.rows), static_cast<py::ssize_t>(w.out)});
  float* const to = result.mutable_data();
  {
    const ReleasedGil released;
    Activations main(ops, x), gate(ops, u);
    call.main.a = main.rows();
    call.gate.a = gate.rows();
    call.out_stride = w.panels * kPanel * sizeof(float);
    Lines out = lines_for(x.rows * call.out_stride);
    call.out = out.data()->bytes;
    ops.product(call);
    for (std::size_t r = 0; r < x.rows; ++r)
      std::memcpy(to + r * w.out, out.data()->bytes + r * call.out_stride, w.out * sizeof(float));
  }
  return result;
}

}  // namespace

void bind_products(py::module_& module) {
  module.def("isas", &isas, "Every instruction set and precision: isa, precision, built, usable, how, why.");
  module.def(
      "choose", &choice, "precision"_a, "isa"_a = "",
      "The kernels that run: isa, how, why. `isa`, PEPNET_ISA, or the widest that is usable, in this order; "
      "ValueError for one that cannot run here.");
  module.def("pack", &pack_array, "w"_a, "b"_a = py::none(), "precision"_a = "fp32",
             "float32 [in, out] weights and float32 [out] bias, laid out for products in a precision.");
  py::class_<PackedWeights>(module, "PackedMatrix", "Weights and bias as the kernels read them.")
      .def_readonly("bytes", &PackedWeights::bytes);
  module.def(
      "ops",
      [](const std::string& isa, const std::string& precision) {
        return &ops_for(isa_named(isa), precision_named(precision));
      },
      "isa"_a, "precision"_a = "fp32", py::return_value_policy::reference,
      "The table of an instruction set and a precision. ValueError, saying why, where it cannot run here.");
  py::class_<Ops>(module, "Ops", "The kernels of one instruction set in one precision.")
      .def_property_readonly("isa", [](const Ops& ops) { return name_of(ops.isa); })
      .def_property_readonly("precision", [](const Ops& ops) { return name_of(ops.precision); })
      .def_property_readonly("how", [](const Ops& ops) { return ops.how; })
      .def("product", &product, "a"_a, "packed"_a, "epilogue"_a = "linear", py::kw_only(),
           "mul"_a = py::none(), "gamma"_a = 1.0F, "gate_a"_a = py::none(), "gate_packed"_a = py::none(),
           "epilogue(a·w + b) [B, out] for float32 a [B, in], which is rounded or quantized as the table "
           "reads it. float32 mul [B, out] and gate_a [B, hidden]: see `Epilogue` in kernels/dense/ops.h.");
}

}  // namespace pepnet::python
