#include "packed_weights.h"

#include <cmath>
#include <memory>

#include "arrays.h"
#include "dense/dispatch.h"
#include "dense/pack.h"
#include "rows/half.h"

namespace pepnet::python {

namespace {

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
  auto packed = std::make_unique<PackedWeights>(
      PackedWeights{Lines(packed_bytes(from.rows, from.columns, format)), {}, from.rows});
  packed->matrix = pack(from.data, static_cast<std::ptrdiff_t>(from.stride), from.rows, from.columns,
                        bias.data(), format, packed->memory.data());
  return packed;
}

// Column n's values are at lane n % 16 of its panel.
py::array_t<float> values_of(const PackedWeights& packed) {
  const PackedMatrix& m = packed.matrix;
  py::array_t<float> result({static_cast<py::ssize_t>(packed.in), static_cast<py::ssize_t>(m.out)});
  float* to = result.mutable_data();
  const std::size_t step = step_of(m.precision);
  for (std::size_t k = 0; k < packed.in; ++k) {
    for (std::size_t n = 0; n < m.out; ++n, ++to) {
      const std::byte* const line =
          static_cast<const std::byte*>(m.data) + n / kPanel * panel_bytes(m) + k / step * 64;
      const std::size_t at = n % kPanel * step + k % step;
      if (m.precision == Precision::fp32) {
        *to = reinterpret_cast<const float*>(line)[at];
      } else if (m.precision == Precision::bf16) {
        *to = float_from_bfloat16(reinterpret_cast<const std::uint16_t*>(line)[at]);
      } else {
        *to = static_cast<float>(reinterpret_cast<const std::int8_t*>(line)[at]);
      }
    }
  }
  return result;
}

std::optional<py::array_t<float>> scale_of(const PackedWeights& packed) {
  if (packed.matrix.scale == nullptr) return std::nullopt;
  return py::array_t<float>(static_cast<py::ssize_t>(packed.matrix.out), packed.matrix.scale);
}

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

}  // namespace

void bind_packed_weights(py::module_& module) {
  module.def("isas", &isas, "Every instruction set and precision: isa, precision, built, usable, how, why.");
  module.def(
      "choose", &choice, "precision"_a, "isa"_a = "",
      "The kernels that run: isa, how, why. `isa`, PEPNET_ISA, or the widest that is usable, in this order; "
      "ValueError for one that cannot run here.");
  module.def("pack", &pack_array, "w"_a, "b"_a = py::none(), "precision"_a = "fp32",
             "float32 [in, out] weights and float32 [out] bias, laid out for products in a precision.");
  py::class_<PackedWeights>(module, "PackedMatrix", "Weights and bias as the kernels read them.")
      .def_property_readonly("shape",
                             [](const PackedWeights& p) { return py::make_tuple(p.in, p.matrix.out); })
      .def_property_readonly("precision", [](const PackedWeights& p) { return name_of(p.matrix.precision); })
      .def_property_readonly("panels", [](const PackedWeights& p) { return p.matrix.panels; })
      .def_property_readonly("bytes", [](const PackedWeights& p) { return p.memory.size(); })
      .def_property_readonly(
          "values", &values_of,
          "float32 [in, out]: the weights as rounded; for int8 whole numbers without their scale.")
      .def_property_readonly("scale", &scale_of, "float32 [out] for int8, else None.");
}

}  // namespace pepnet::python
