#include "bindings.h"

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "Compiled parts of pepnet_infer. Arrays are checked, never converted; the GIL is released.";
  pepnet::python::bind_cpu(module);
  pepnet::python::bind_dense_model(module);
  pepnet::python::bind_device_features(module);
  pepnet::python::bind_exceptions(module);
  pepnet::python::bind_fetches(module);
  pepnet::python::bind_file_lock(module);
  pepnet::python::bind_file_map(module);
  pepnet::python::bind_flights(module);
  pepnet::python::bind_gate(module);
  pepnet::python::bind_key_index(module);
  pepnet::python::bind_look_up(module);
  pepnet::python::bind_number_columns(module);
  pepnet::python::bind_objects(module);
  pepnet::python::bind_ops(module);
  pepnet::python::bind_packed_weights(module);
  pepnet::python::bind_pins(module);
  pepnet::python::bind_row_cache(module);
  pepnet::python::bind_rows(module);
  pepnet::python::bind_score_check(module);
  pepnet::python::bind_side_rows(module);
  pepnet::python::bind_studies(module);
  pepnet::python::bind_table(module);
  pepnet::python::bind_tally(module);
}
