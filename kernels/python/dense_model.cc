#include "dense_model.h"

#include <atomic>
#include <bit>
#include <chrono>
#include <memory>

#include "cpu/named.h"
#include "dense/dispatch.h"

namespace pepnet::python {

namespace {

using FloatArray = py::array_t<float>;

bool packed_floats(const py::array& array) { return is_packed(array) && is_aligned<float>(array); }

constexpr py::ssize_t kAnyRows = -1;

const float* input(const char* name, const py::array& array, py::ssize_t rows, std::size_t width) {
  expect_type<float>(name, array);
  // Subclasses mean something else by their values: masks.
  if (Py_TYPE(array.ptr()) != py::detail::npy_api::get().PyArray_Type_) {
    throw py::type_error(std::string(name) + ": expected NumPy's own type of array, got " +
                         std::string(py::str(py::type::of(array))));
  }
  if (array.ndim() != 2 || (rows != kAnyRows && array.shape(0) != rows) || length(array, 1) != width) {
    refuse(name,
           "[" + (rows == kAnyRows ? "rows" : std::to_string(rows)) + ", " + std::to_string(width) + "]",
           array);
  }
  if (!packed_floats(array)) refuse(name, "aligned rows without gaps", array);
  return static_cast<const float*>(array.data());
}

}  // namespace

Tensors tensors_of(const py::dict& arrays) {
  Tensors tensors;
  for (const auto& [key, value] : arrays) {
    const auto name = key.cast<std::string>();
    if (!py::isinstance<FloatArray>(value)) {
      const std::string got = py::isinstance<py::array>(value) ? describe(py::cast<py::array>(value))
                                                               : std::string(py::str(py::type::of(value)));
      throw py::type_error(name + ": expected a float32 array, got " + got);
    }
    const auto array = py::cast<py::array>(value);
    if (!packed_floats(array)) refuse(name.c_str(), "an aligned array without gaps", array);
    TensorView view{static_cast<const float*>(array.data()), {}};
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      view.shape.push_back(static_cast<std::size_t>(array.shape(axis)));
    }
    tensors.emplace(name, std::move(view));
  }
  return tensors;
}

DenseInputs inputs_of(const std::array<std::size_t, 3>& widths, const py::array& general,
                      const py::array& domain, const py::array& prior) {
  const float* const first = input("general", general, kAnyRows, widths[0]);
  const py::ssize_t rows = general.shape(0);
  return {first, input("domain", domain, rows, widths[1]), input("prior", prior, rows, widths[2]),
          static_cast<std::size_t>(rows)};
}

FloatArray scores_for(std::size_t rows, std::size_t scores) {
  return FloatArray({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(scores)});
}

namespace {

constexpr Named<Split> kSplits[] = {
    {"auto", Split::automatic}, {"rows", Split::rows}, {"columns", Split::columns}};

using Runs = std::vector<std::pair<std::size_t, std::size_t>>;

// Limits of general, domain and prior: of each column, and of a row's norm.
using Domain = std::pair<std::array<std::vector<float>, 3>, std::array<float, 3>>;

class Model {
 public:
  Model(const py::object& tensors, const network::Network& network, const std::string& isa,
        const std::string& precision, std::array<Runs, 3> shared, std::size_t block_rows,
        const std::string& split, const std::optional<Domain>& domain)
      : choice_(choose(precision_named(precision), isa == "auto" ? std::string() : isa)) {
    const py::dict arrays(tensors);  // of any mapping; holds the arrays while they are packed
    const Tensors views = tensors_of(arrays);
    DenseOptions options{std::move(shared), block_rows, value_named("split", kSplits, split), std::nullopt};
    if (domain) options.domain = InputDomain{domain->first, domain->second};
    const Ops& small = ops_for(choice_.ops->isa, Precision::fp32);
    const ReleasedGil released;
    model_ = std::make_unique<DenseModel>(network, views, *choice_.ops, small, options);
    if (domain) {
      options.domain.reset();
      wide_ = std::make_unique<DenseModel>(network, views, small, small, options);
    }
  }

  FloatArray run(const py::array& general, const py::array& domain, const py::array& prior,
                 std::ptrdiff_t threads, bool spin, bool share, bool wide) const {
    if (wide && wide_ == nullptr)
      throw py::value_error("domain: expected one, beyond which rows are scored wide");
    const DenseInputs inputs = inputs_of(model_->widths(), general, domain, prior);
    const unsigned most = threads_of(threads);
    FloatArray scores = scores_for(inputs.rows, model_->scores());
    float* const out = scores.mutable_data();
    const ReleasedGil released;
    const auto begin = std::chrono::steady_clock::now();
    if (wide || wide_ == nullptr) {
      (wide ? wide_ : model_)->run(inputs, out, most, spin, share);
    } else {
      std::vector<std::uint8_t> outside(inputs.rows);
      model_->run(inputs, out, most, spin, share, outside.data());
      const std::size_t count = score_outside(*wide_, inputs, outside.data(), out, most, spin);
      if (count > 0) outside_.fetch_add(static_cast<std::int64_t>(count), std::memory_order_relaxed);
    }
    const auto spent = std::chrono::steady_clock::now() - begin;
    run_ns_.fetch_add(std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count(),
                      std::memory_order_relaxed);
    return scores;
  }

  py::dict describe() const {
    const Ops& ops = *choice_.ops;
    const DenseInfo& info = model_->info();
    return py::dict("isa"_a = name_of(ops.isa), "precision"_a = name_of(ops.precision),
                    "activation"_a = name_of(ops.activation), "how"_a = ops.how, "why"_a = choice_.why,
                    "packed_bytes"_a = info.packed_bytes, "block_rows"_a = info.block_rows,
                    "wide_bytes"_a = wide_ == nullptr ? 0 : wide_->info().packed_bytes);
  }

  std::array<Runs, 3> shared() const { return model_->shared(); }

  std::int64_t run_ns() const { return run_ns_.load(std::memory_order_relaxed); }
  std::int64_t outside_rows() const { return outside_.load(std::memory_order_relaxed); }
  std::size_t memory_bytes() const {
    return model_->memory_bytes() + (wide_ == nullptr ? 0 : wide_->memory_bytes());
  }

 private:
  static unsigned threads_of(std::ptrdiff_t threads) {
    if (threads < 1) throw py::value_error("threads: expected at least 1, got " + std::to_string(threads));
    return static_cast<unsigned>(std::min<std::ptrdiff_t>(threads, 1 << 20));
  }

  Choice choice_;
  std::unique_ptr<DenseModel> model_;
  std::unique_ptr<DenseModel> wide_;  // in fp32, for rows outside of the domain; null without one
  mutable std::atomic<std::int64_t> run_ns_{0}, outside_{0};
};

// Whether all are numbers in [0, 1]. Floats of one sign are in the order of their bits as integers, NaN above
// infinity: compilers make vectors of compares of integers, and none of compares of floats whose outcomes are
// joined.
bool all_probabilities(const float* scores, std::size_t count) {
  constexpr auto kOne = std::bit_cast<std::int32_t>(1.0F);
  constexpr auto kMinusZero = std::bit_cast<std::int32_t>(-0.0F);
  std::int32_t bad = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::int32_t>(scores[i]);
    bad |= static_cast<std::int32_t>(bits > kOne) |
           (static_cast<std::int32_t>(bits < 0) & static_cast<std::int32_t>(bits != kMinusZero));
  }
  return bad == 0;
}

std::optional<py::array_t<bool>> rows_without_probability(const py::array& scores) {
  const MatrixView matrix = matrix_of("scores", scores);
  if (matrix.stride == matrix.columns || matrix.rows <= 1) {
    if (all_probabilities(matrix.data, matrix.rows * matrix.columns)) return std::nullopt;
  }
  py::array_t<bool> mask(static_cast<py::ssize_t>(matrix.rows));
  bool* const bad = mask.mutable_data();
  bool any = false;
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    bad[r] = !all_probabilities(matrix.row(r), matrix.columns);
    any = any || bad[r];
  }
  if (!any) return std::nullopt;
  return mask;
}

}  // namespace

void bind_dense_model(py::module_& module) {
  py::class_<Model>(module, "DenseModel", "The whole dense part of a model, from packed weights.")
      .def(py::init<const py::object&, const network::Network&, const std::string&, const std::string&,
                    std::array<Runs, 3>, std::size_t, const std::string&, const std::optional<Domain>&>(),
           "tensors"_a, "network"_a, "isa"_a = "auto", "precision"_a = "fp32",
           "shared"_a = std::array<Runs, 3>(), "block_rows"_a = 0, "split"_a = "auto",
           "domain"_a = py::none())
      .def("run", &Model::run, "general"_a, "domain"_a, "prior"_a, "threads"_a = 1, "spin"_a = true,
           "share"_a = false, "wide"_a = false)
      .def("describe", &Model::describe)
      .def_property_readonly("shared", &Model::shared)
      .def_property_readonly("outside_rows", &Model::outside_rows)
      .def_property_readonly("run_ns", &Model::run_ns)
      .def_property_readonly("memory_bytes", &Model::memory_bytes);
  module.def("rows_without_probability", &rows_without_probability, "scores"_a);
}

}  // namespace pepnet::python
