// What every file of bindings needs, and the list of them: one function a file, called by module.cc.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "released_gil.h"

#define PEPNET_BINDINGS(each)                                                                      \
  each(exceptions) each(cpu) each(dense_model) each(device_features) each(fetches) each(file_lock) \
      each(file_map) each(flights) each(gate) each(key_index) each(look_up) each(number_columns)   \
          each(objects) each(ops) each(packed_weights) each(pins) each(row_cache) each(rows)       \
              each(score_check) each(side_rows) each(studies) each(table) each(tally)

namespace pepnet::python {

namespace py = pybind11;
using namespace py::literals;  // "name"_a

#define PEPNET_DECLARE(name) void bind_##name(py::module_& module);
PEPNET_BINDINGS(PEPNET_DECLARE)
#undef PEPNET_DECLARE

}  // namespace pepnet::python
