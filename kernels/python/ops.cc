// Every op of every table, on NumPy arrays: for tests, benchmarks and people with a network of their own.

#include <cstring>

#include "arrays.h"
#include "cpu/named.h"
#include "dense/dispatch.h"
#include "packed_weights.h"
#include "rows/half.h"

namespace pepnet::python {

namespace {

using FloatArray = py::array_t<float>;

FloatArray floats(std::size_t rows, std::size_t columns) {
  return FloatArray({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns)});
}

[[noreturn]] void reject(const std::string& what) { throw py::value_error(what); }

constexpr Named<Epilogue> kEpilogues[] = {{"linear", Epilogue::linear},
                                          {"relu", Epilogue::relu},
                                          {"gate", Epilogue::gate},
                                          {"gate_times", Epilogue::gate_times},
                                          {"relu_times", Epilogue::relu_times},
                                          {"relu_gated", Epilogue::relu_gated}};

// Rows of activations in the format of a table, with all that `Rows` points to.
class Activations {
 public:
  Activations(const Ops& ops, const MatrixView& x)
      : stride_(round_up(x.columns, k_multiple(ops.precision)) * bytes_of(ops.activation)),
        memory_(x.rows * stride_),
        scale_(x.rows),
        zero_(x.rows) {
    const std::size_t padded = stride_ / bytes_of(ops.activation);
    for (std::size_t r = 0; r < x.rows; ++r) {
      std::byte* const to = memory_.data() + r * stride_;
      if (ops.activation == Activation::u8) {
        ops.quantize(x.row(r), x.columns, reinterpret_cast<std::uint8_t*>(to), padded, &scale_[r], &zero_[r]);
      } else {
        ops.convert(x.row(r), x.columns, to, padded);
      }
    }
  }
  Rows rows() const { return {memory_.data(), stride_, scale_.data(), zero_.data()}; }
  const Lines& memory() const { return memory_; }
  std::size_t stride() const { return stride_; }
  const std::vector<float>& scale() const { return scale_; }
  const std::vector<std::int32_t>& zero() const { return zero_; }

 private:
  std::size_t stride_;
  Lines memory_;
  std::vector<float> scale_;
  std::vector<std::int32_t> zero_;
};

// float32 or bf16 rows → float32, `columns` of them from `begin`.
void widen_rows(const Lines& from, std::size_t stride, bool bf16, std::size_t begin, std::size_t rows,
                std::size_t columns, float* to) {
  for (std::size_t r = 0; r < rows; ++r) {
    const std::byte* const row = from.data() + r * stride + begin * (bf16 ? 2 : 4);
    for (std::size_t c = 0; c < columns; ++c, ++to) {
      if (bf16) {
        std::uint16_t narrow;
        std::memcpy(&narrow, row + c * 2, 2);
        *to = float_from_bfloat16(narrow);
      } else {
        std::memcpy(to, row + c * 4, 4);
      }
    }
  }
}

// The arguments of OpsView::product that make sense only together with others.
struct ProductExtras {
  std::optional<py::array> mul, gate_a, init, copy;
  const PackedWeights* gate_packed;
};

// A table, and its ops with arrays for arguments. What is passed is checked here: kernels check nothing.
class OpsView {
 public:
  explicit OpsView(const Ops& ops) : ops_(ops) {}

  const Ops& table() const { return ops_; }

  FloatArray product(const py::array& a, const PackedWeights& packed, const std::string& epilogue,
                     float gamma, const ProductExtras& extras, std::size_t k_begin, std::size_t panel_begin,
                     std::optional<std::size_t> panel_end, bool bf16_out, bool padded) const {
    const PackedMatrix& w = packed.matrix;
    const MatrixView x = activations_of("a", a, packed, "packed");
    Product call;
    call.epilogue = value_named("epilogue", kEpilogues, epilogue);
    call.gamma = gamma;
    call.rows = x.rows;
    call.panel_begin = panel_begin;
    call.panel_end = panel_end.value_or(w.panels);
    if (call.panel_begin > call.panel_end || call.panel_end > w.panels) {
      reject("panels: expected a range within 0 to " + std::to_string(w.panels) + ", got " +
             std::to_string(panel_begin) + " to " + std::to_string(call.panel_end));
    }
    if (k_begin % k_multiple(ops_.precision) != 0 || k_begin > w.in) {
      reject("k_begin: expected a multiple of " + std::to_string(k_multiple(ops_.precision)) + " up to " +
             std::to_string(w.in) + ", got " + std::to_string(k_begin));
    }
    if (k_begin != 0 && ops_.precision == Precision::int8) {
      reject("k_begin: expected 0 with int8, got " + std::to_string(k_begin));
    }
    call.main.w = &w;
    call.main.k_begin = k_begin;
    const Lines init = init_of(extras.init, w, call.main);
    take_factors(extras.mul, epilogue, w.out, call);
    const MatrixView u = take_gate(extras, epilogue, w.out, call);
    take_copy(extras.copy, w.panels, call);

    const std::size_t begin = panel_begin * kPanel;
    const std::size_t whole = call.panel_end * kPanel;
    const std::size_t end = padded || whole < w.out ? whole : w.out;
    const std::size_t columns = end > begin ? end - begin : 0;
    FloatArray result = floats(x.rows, columns);
    float* const to = result.mutable_data();
    {
      const ReleasedGil released;
      const Activations main(ops_, x);
      const Activations gate(ops_, u);
      call.main.a = main.rows();
      call.gate.a = gate.rows();
      call.out_bf16 = bf16_out;
      call.out_stride = round_up(w.panels * kPanel * (bf16_out ? 2 : 4), 64);
      const Lines out(x.rows * call.out_stride);
      call.out = out.data();
      ops_.product(call);
      widen_rows(out, call.out_stride, bf16_out, begin, x.rows, columns, to);
    }
    return result;
  }

  FloatArray mix(const py::array& z, const py::array& h) const {
    const MatrixView logits = matrix_of("z", z);
    expect_type<float>("h", h);
    if (h.ndim() != 3 || !is_packed(h) || logits.columns == 0 || !is_aligned<float>(h) ||
        length(h) != logits.columns || length(h, 1) != logits.rows) {
      refuse("h",
             "aligned [" + std::to_string(logits.columns) + ", " + std::to_string(logits.rows) +
                 ", width] without gaps for at least one expert",
             h);
    }
    Mix call;
    call.z = logits.data;
    call.z_stride = logits.stride;
    call.h = static_cast<const float*>(h.data());
    call.width = length(h, 2);
    call.h_stride = call.width;
    call.expert_stride = call.width * logits.rows;
    call.experts = logits.columns;
    call.rows = logits.rows;
    call.out_stride = round_up(call.width, kPanel);
    FloatArray result = floats(logits.rows, call.width);
    float* const to = result.mutable_data();
    {
      const ReleasedGil released;
      const Lines out(call.out_stride * logits.rows * sizeof(float));
      call.out = out.as<float>();
      ops_.mix(call);
      widen_rows(out, call.out_stride * sizeof(float), false, 0, logits.rows, call.width, to);
    }
    return result;
  }

  FloatArray score(const py::array& h, const py::array& w, float b) const {
    const MatrixView x = matrix_of("h", h);
    const PackedArray<float> given = default_of("w", w, x.columns);
    std::vector<float> weights(given.size());
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = given[i];
    return filled<float>(x.rows, [&](float* to) {
      ops_.score(x.data, x.stride, weights.data(), b, x.columns, x.rows, to, 1);
    });
  }

  FloatArray sigmoid(const py::array& x) const {
    const PackedArray<float> given = vector_of<float>("x", x);
    return filled<float>(given.size(), [&](float* to) {
      for (std::size_t i = 0; i < given.size(); ++i) to[i] = given[i];
      ops_.sigmoid(to, given.size(), to);
    });
  }

  FloatArray convert(const py::array& x) const {
    const MatrixView given = matrix_of("x", x);
    if (ops_.activation == Activation::u8) reject(std::string(ops_.how) + ": expected quantize, got convert");
    FloatArray result = floats(given.rows, given.columns);
    float* const to = result.mutable_data();
    const ReleasedGil released;
    const Activations rows(ops_, given);
    widen_rows(rows.memory(), rows.stride(), ops_.activation == Activation::bf16, 0, given.rows,
               given.columns, to);
    return result;
  }

  py::tuple quantize(const py::array& x) const {
    const MatrixView given = matrix_of("x", x);
    if (ops_.activation != Activation::u8) reject(std::string(ops_.how) + ": expected convert, got quantize");
    const Activations rows(ops_, given);
    py::array_t<std::uint8_t> bytes(
        {static_cast<py::ssize_t>(given.rows), static_cast<py::ssize_t>(given.columns)});
    for (std::size_t r = 0; r < given.rows && given.columns > 0; ++r) {
      std::memcpy(bytes.mutable_data() + r * given.columns, rows.memory().data() + r * rows.stride(),
                  given.columns);
    }
    const auto count = static_cast<py::ssize_t>(given.rows);
    return py::make_tuple(bytes, FloatArray(count, rows.scale().data()),
                          py::array_t<std::int32_t>(count, rows.zero().data()));
  }

 private:
  MatrixView activations_of(const char* name, const py::array& array, const PackedWeights& packed,
                            const char* packed_name) const {
    const MatrixView view = matrix_of(name, array);
    if (packed.matrix.precision != ops_.precision) {
      reject(std::string(packed_name) + ": expected weights packed as " + name_of(ops_.precision) + ", got " +
             name_of(packed.matrix.precision));
    }
    if (view.columns != packed.in) refuse(name, std::to_string(packed.in) + " columns", array);
    return view;
  }

  // The accumulators' start, padded; none leaves zeros.
  Lines init_of(const std::optional<py::array>& init, const PackedMatrix& w, Operands& operands) const {
    Lines padded(w.panels * kPanel * sizeof(float));
    if (!init) return padded;
    if (ops_.precision == Precision::int8) reject("init: expected none with int8");
    const PackedArray<float> given = default_of("init", *init, w.out);
    for (std::size_t i = 0; i < given.size(); ++i) padded.as<float>()[i] = given[i];
    operands.init = padded.as<float>();
    return padded;
  }

  static void take_factors(const std::optional<py::array>& mul, const std::string& epilogue, std::size_t out,
                           Product& call) {
    const bool times = call.epilogue == Epilogue::gate_times || call.epilogue == Epilogue::relu_times;
    if (times != mul.has_value()) {
      reject("mul: expected with gate_times and relu_times, and only there; the epilogue is " + epilogue);
    }
    if (!times) return;
    const MatrixView view = matrix_of("mul", *mul);
    if (view.rows != call.rows || view.columns != out)
      refuse("mul", "[" + std::to_string(call.rows) + ", " + std::to_string(out) + "]", *mul);
    call.mul = view.data;
    call.mul_stride = view.stride;
  }

  MatrixView take_gate(const ProductExtras& extras, const std::string& epilogue, std::size_t out,
                       Product& call) const {
    const bool gated = call.epilogue == Epilogue::relu_gated;
    if (gated != extras.gate_a.has_value() || gated != (extras.gate_packed != nullptr)) {
      reject("gate_a, gate_packed: expected with relu_gated, and only there; the epilogue is " + epilogue);
    }
    if (!gated) return {};
    const MatrixView view = activations_of("gate_a", *extras.gate_a, *extras.gate_packed, "gate_packed");
    if (view.rows != call.rows || extras.gate_packed->matrix.out != out) {
      reject("gate_a, gate_packed: expected " + std::to_string(call.rows) + " rows and " +
             std::to_string(out) + " columns, got " + std::to_string(view.rows) + " and " +
             std::to_string(extras.gate_packed->matrix.out));
    }
    call.gate.w = &extras.gate_packed->matrix;
    return view;
  }

  static void take_copy(const std::optional<py::array>& copy, std::size_t panels, Product& call) {
    if (!copy) return;
    const OutView view = out_of("copy", *copy, call.rows, panels * kPanel);
    if (view.stride < 0) refuse("copy", "rows in ascending order", *copy);
    call.out2 = view.data;
    call.out2_stride = static_cast<std::size_t>(view.stride);
  }

  const Ops& ops_;
};

}  // namespace

void bind_ops(py::module_& module) {
  module.def(
      "ops",
      [](const std::string& isa, const std::string& precision) {
        return OpsView(ops_for(isa_named(isa), precision_named(precision)));
      },
      "isa"_a, "precision"_a = "fp32",
      "The table of an instruction set and a precision. ValueError, saying why, where it cannot run here.");
  py::class_<OpsView>(module, "Ops", "The ops of one instruction set in one precision, each on its own.")
      .def_property_readonly("isa", [](const OpsView& o) { return name_of(o.table().isa); })
      .def_property_readonly("precision", [](const OpsView& o) { return name_of(o.table().precision); })
      .def_property_readonly(
          "activation", [](const OpsView& o) { return name_of(o.table().activation); },
          "What products read: f32, bf16 or u8.")
      .def_property_readonly("how", [](const OpsView& o) { return o.table().how; })
      .def(
          "product",
          [](const OpsView& ops, const py::array& a, const PackedWeights& packed, const std::string& epilogue,
             std::optional<py::array> mul, float gamma, std::optional<py::array> gate_a,
             const PackedWeights* gate_packed, std::optional<py::array> init, std::size_t k_begin,
             std::size_t panel_begin, std::optional<std::size_t> panel_end, bool bf16_out, bool padded,
             std::optional<py::array> copy) {
            const ProductExtras extras{std::move(mul), std::move(gate_a), std::move(init), std::move(copy),
                                       gate_packed};
            return ops.product(a, packed, epilogue, gamma, extras, k_begin, panel_begin, panel_end, bf16_out,
                               padded);
          },
          "a"_a, "packed"_a, "epilogue"_a = "linear", py::kw_only(), "mul"_a = py::none(), "gamma"_a = 1.0F,
          "gate_a"_a = py::none(), "gate_packed"_a = py::none(), "init"_a = py::none(), "k_begin"_a = 0,
          "panel_begin"_a = 0, "panel_end"_a = py::none(), "bf16_out"_a = false, "padded"_a = false,
          "copy"_a = py::none(),
          "epilogue(a·w + b) for float32 a [B, in], which is rounded or quantized as the table reads it → "
          "float32 [B, columns of the panels asked for].")
      .def("mix", &OpsView::mix, "z"_a, "h"_a,
           "Σ_e softmax(z)_e h_e for float32 z [B, E] and h [E, B, width] → [B, width].")
      .def("score", &OpsView::score, "h"_a, "w"_a, "b"_a,
           "sigmoid(h·w + b) for float32 h [B, n] and w [n] → [B].")
      .def("sigmoid", &OpsView::sigmoid, "x"_a, "float32 [n] → float32 [n].")
      .def("convert", &OpsView::convert, "x"_a,
           "float32 [B, n] as products read it: rounded to bf16 or left alone.")
      .def("quantize", &OpsView::quantize, "x"_a,
           "float32 [B, n] → uint8 [B, n], float32 scale [B], int32 zero [B]; x ≈ scale · (byte − zero).");
}

}  // namespace pepnet::python
