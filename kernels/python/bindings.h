// What every file of bindings needs, and the list of them: one function a file, called by module.cc.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "released_gil.h"

#define PEPNET_BINDINGS(each)                                                                       \
  each(cpu) each(cuda) each(dense_model) each(fetches) each(file_lock) each(file_map) each(flights) \
      each(network) each(number_columns) each(objects) each(pins) each(products) each(row_cache)    \
          each(shared_lock) each(side_rows) each(studies) each(tables) each(tally)

namespace pepnet::python {

namespace py = pybind11;
using namespace py::literals;  // "name"_a

// Raised as `pepnet_infer.errors.BackendError`.
struct BackendError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Does `work` when its scope is left, also by an exception.
template <class Work>
struct Finally {
  Work work;
  ~Finally() { work(); }
};
template <class Work>
Finally(Work) -> Finally<Work>;

#define PEPNET_DECLARE(name) void bind_##name(py::module_& module);
PEPNET_BINDINGS(PEPNET_DECLARE)
#undef PEPNET_DECLARE

}  // namespace pepnet::python
