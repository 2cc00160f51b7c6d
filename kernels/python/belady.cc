#include "studies/belady.h"

#include "arrays.h"
#include "bindings.h"
#include "released_gil.h"

namespace pepnet::python {

namespace {

std::size_t run(const py::array& keys, std::size_t rows, const py::object& hits) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  if (view.size() >= 0xFFFF'FFFF) {
    throw py::value_error("keys: expected fewer than 2^32 - 1, got " + std::to_string(view.size()));
  }
  bool* const flags = hits.is_none() ? nullptr : flags_of("hits", py::cast<py::array>(hits), view.size());
  const ReleasedGil released;
  return belady(view, rows, flags);
}

}  // namespace

void bind_belady(py::module_& module) {
  module.def(
      "belady", &run, py::arg("keys"), py::arg("rows"), py::arg("hits") = py::none(),
      "Belady's MIN: replays uint64 [N] keys through a cache of that many rows, writes bool [N] hits, and "
      "returns how many hit.");
}

}  // namespace pepnet::python
