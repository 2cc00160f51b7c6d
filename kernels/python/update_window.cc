#include "cache/update_window.h"

#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>

#include "arrays.h"
#include "bindings.h"
#include "released_gil.h"
#include "row_cache.h"

namespace pepnet::python {

namespace {

using cache::UpdateWindow;

std::unique_ptr<UpdateWindow> make_window(const py::object& core, double interval, std::uint32_t limit,
                                          bool after_expiry, std::size_t max_pending) {
  RowCache& cache = core_of(core);
  const auto dim = core.attr("dim").cast<std::size_t>();
  const ReleasedGil released;
  return std::make_unique<UpdateWindow>(cache, dim,
                                        cache::WindowOptions{interval, limit, after_expiry, max_pending});
}

template <class T>
const T* column_of(const char* name, const py::array& array, std::size_t size) {
  const PackedArray<T> view = vector_of<T>(name, array);
  if (view.size() != size || reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    throw py::value_error(std::string(name) + ": expected aligned [" + std::to_string(size) + "], got " +
                          describe(array));
  }
  return static_cast<const T*>(array.data());
}

template <class T>
const T* column_of(const char* name, const std::optional<py::array>& array, std::size_t size) {
  return array.has_value() ? column_of<T>(name, *array, size) : nullptr;
}

const double* expires_of(const std::optional<py::array>& array, std::size_t size) {
  if (!array.has_value()) return nullptr;
  if (!py::isinstance<py::array_t<double>>(*array)) {
    throw py::type_error("expires: expected float64, got " + describe(*array));
  }
  const bool packed = array->ndim() == 1 && static_cast<std::size_t>(array->shape(0)) == size &&
                      (size < 2 || array->strides(0) == static_cast<py::ssize_t>(sizeof(double))) &&
                      reinterpret_cast<std::uintptr_t>(array->data()) % alignof(double) == 0;
  if (!packed) {
    throw py::value_error("expires: expected aligned [" + std::to_string(size) + "] without gaps, got " +
                          describe(*array));
  }
  return static_cast<const double*>(array->data());
}

std::size_t apply(UpdateWindow& window, const py::array& keys, const py::array& rows,
                  const py::array& versions, const std::optional<py::array>& scores,
                  const std::optional<py::array>& expires) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  const MatrixView matrix = matrix_of("rows", rows);
  if (matrix.rows != view.size() || matrix.columns != window.dim()) {
    throw py::value_error("rows: expected [" + std::to_string(view.size()) + ", " +
                          std::to_string(window.dim()) + "], got " + describe(rows));
  }
  const RowBatch batch{view,
                       matrix.data,
                       static_cast<std::ptrdiff_t>(matrix.stride),
                       column_of<float>("scores", scores, view.size()),
                       column_of<std::uint64_t>("versions", versions, view.size()),
                       expires_of(expires, view.size())};
  const ReleasedGil released;
  return window.apply(batch);
}

std::size_t erase(UpdateWindow& window, const py::array& keys, const py::array& versions,
                  const std::optional<py::array>& expires) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  const std::uint64_t* const given = column_of<std::uint64_t>("versions", versions, view.size());
  const double* const until = expires_of(expires, view.size());
  const ReleasedGil released;
  return window.erase(view, given, until);
}

std::size_t flush(UpdateWindow& window, std::optional<double> now) {
  const ReleasedGil released;
  return window.flush(now.value_or(std::numeric_limits<double>::quiet_NaN()));
}

py::dict stats(const UpdateWindow& window) {
  const cache::WindowStats counted = window.stats();
  py::dict named;
  named["applied"] = counted.applied;
  named["stale"] = counted.stale;
  named["rejected"] = counted.rejected;
  named["held"] = counted.held;
  named["coalesced"] = counted.coalesced;
  named["early"] = counted.early;
  named["untracked"] = counted.untracked;
  named["dropped"] = counted.dropped;
  named["pending"] = counted.pending;
  return named;
}

}  // namespace

void bind_update_window(py::module_& module) {
  py::class_<UpdateWindow>(module, "UpdateWindow", "Updates on their way into a RowCache, limited per id.")
      .def(py::init(&make_window), py::arg("core"), py::arg("interval"), py::arg("limit"),
           py::arg("after_expiry"), py::arg("max_pending"), py::keep_alive<1, 2>())
      .def("apply", &apply, py::arg("keys"), py::arg("rows"), py::arg("versions"),
           py::arg("scores") = py::none(), py::arg("expires") = py::none(),
           "As RowCache.write with update=True; returns how many were applied now.")
      .def("erase", &erase, py::arg("keys"), py::arg("versions"), py::arg("expires") = py::none(),
           "As RowCache.erase; returns how many were applied now.")
      .def("flush", &flush, py::arg("now") = py::none(),
           "Applies what was held in an interval other than that of `now`, or all of it. Returns how many "
           "applied.")
      .def("stats", &stats);
}

}  // namespace pepnet::python
