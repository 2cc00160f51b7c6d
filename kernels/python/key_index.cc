#include "rows/key_index.h"

#include <memory>

#include "arrays.h"

namespace pepnet::python {

namespace {

std::unique_ptr<KeyIndex> make(const py::array& keys) {
  const auto view = keys_of(keys);
  const ReleasedGil released;
  return std::make_unique<KeyIndex>(view);
}

py::array_t<std::int64_t> find(const KeyIndex& index, const py::array& keys) {
  const auto view = keys_of(keys);
  return filled<std::int64_t>(view.size(), [&](std::int64_t* positions) { index.find(view, positions); });
}

}  // namespace

void bind_key_index(py::module_& module) {
  py::class_<KeyIndex>(module, "KeyIndex", "Key → position; built once, read by any number of threads.")
      .def(py::init(&make), "keys"_a,
           "Indexes uint64 [N] keys in any order. ValueError for a key that comes twice.")
      .def("find", &find, "keys"_a, "uint64 [n] → int64 [n]: the position of each key, -1 where absent.")
      .def("__len__", &KeyIndex::size)
      .def_property_readonly("memory_bytes", &KeyIndex::memory_bytes);
}

}  // namespace pepnet::python
