// One function per binding file; module.cc lists them.
#pragma once

#include <pybind11/pybind11.h>

namespace pepnet::python {

void bind_cpu(pybind11::module_& module);
void bind_dense_model(pybind11::module_& module);
void bind_device_features(pybind11::module_& module);
void bind_exceptions(pybind11::module_& module);
void bind_fetches(pybind11::module_& module);
void bind_file_lock(pybind11::module_& module);
void bind_file_map(pybind11::module_& module);
void bind_flights(pybind11::module_& module);
void bind_gate(pybind11::module_& module);
void bind_key_index(pybind11::module_& module);
void bind_look_up(pybind11::module_& module);
void bind_number_columns(pybind11::module_& module);
void bind_objects(pybind11::module_& module);
void bind_ops(pybind11::module_& module);
void bind_packed_weights(pybind11::module_& module);
void bind_pins(pybind11::module_& module);
void bind_row_cache(pybind11::module_& module);
void bind_rows(pybind11::module_& module);
void bind_score_check(pybind11::module_& module);
void bind_side_rows(pybind11::module_& module);
void bind_studies(pybind11::module_& module);
void bind_table(pybind11::module_& module);
void bind_tally(pybind11::module_& module);

}  // namespace pepnet::python
