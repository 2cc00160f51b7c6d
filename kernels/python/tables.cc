// Stored rows: their keys' index, a table of both, and sums of rows. What each function does is said in
// rows/key_index.h and rows/lookup.h.
#include <memory>

#include "arrays.h"
#include "rows/key_index.h"
#include "rows/lookup.h"

namespace pepnet::python {

namespace {

py::array_t<std::int64_t> find(const KeyIndex& index, Keys keys) {
  return filled<std::int64_t>(keys.size(), [&](std::int64_t* positions) { index.find(keys, positions); });
}

void pool_rows(const py::array& rows, const py::array& offsets, const std::string& pooling,
               const py::array& out) {
  const RowsView source = rows_of("rows", rows);
  const Bags bags = bags_of(offsets, pooling);
  const OutView target = out_of("out", out, bags.count, source.dim);
  const ReleasedGil released;
  check_offsets(bags.offsets, source.count);
  pool(source, bags.offsets, bags.pooling, target);
}

// Rows and the index over their keys, so that a field of a batch is one call. The arrays are kept beside it
// by the binding, not copied: a table over a mapped file reads the file's pages as they are asked for.
struct Table {
  RowsView rows;
  PackedArray<float> default_row;
  KeyIndex index;
};

std::unique_ptr<Table> table_of(Keys keys, const py::array& rows, const py::array& default_row) {
  const RowsView view = rows_of("rows", rows);
  const PackedArray<float> fallback = default_of("default_row", default_row, view.dim);
  if (keys.size() != view.count)
    throw py::value_error("keys: expected " + std::to_string(view.count) + ", one a row, got uint64 [" +
                          std::to_string(keys.size()) + "]");
  const ReleasedGil released;
  return std::make_unique<Table>(Table{view, fallback, KeyIndex(keys)});
}

std::size_t lookup_in(const Table& table, Keys keys, const py::array& out,
                      const std::optional<py::array>& found) {
  const OutView target = out_of("out", out, keys.size(), table.rows.dim);
  bool* const flags = written_of<bool>("found", found, keys.size());
  const ReleasedGil released;
  return lookup(table.index, table.rows, keys, table.default_row, target, flags);
}

std::size_t pool_in(const Table& table, Keys keys, const py::array& offsets, const std::string& pooling,
                    const py::array& out) {
  const Bags bags = bags_of(offsets, pooling);
  const OutView target = out_of("out", out, bags.count, table.rows.dim);
  const ReleasedGil released;
  check_offsets(bags.offsets, keys.size());
  return lookup_pool(table.index, table.rows, keys, bags.offsets, bags.pooling, table.default_row, target);
}

}  // namespace

void bind_tables(py::module_& module) {
  py::class_<KeyIndex>(module, "KeyIndex", "Key → position; built once, read by any number of threads.")
      .def(py::init<Keys>(), "keys"_a, py::call_guard<ReleasedGil>())
      .def("find", &find, "keys"_a)
      .def("__len__", &KeyIndex::size)
      .def_property_readonly("memory_bytes", &KeyIndex::memory_bytes);
  module.def("pool", &pool_rows, "rows"_a, "offsets"_a, "pooling"_a, "out"_a);
  py::class_<Table>(module, "Table",
                    "Rows by key: an index over keys and rows read in place. Safe from any thread.")
      .def(py::init(&table_of), "keys"_a, "rows"_a, "default_row"_a, py::keep_alive<1, 3>(),
           py::keep_alive<1, 4>())
      .def("lookup", &lookup_in, "keys"_a, "out"_a, "found"_a = py::none())
      .def("pool", &pool_in, "keys"_a, "offsets"_a, "pooling"_a, "out"_a)
      .def("__len__", [](const Table& table) { return table.rows.count; })
      .def_property_readonly("dim", [](const Table& table) { return table.rows.dim; })
      .def_readonly("index", &Table::index);
}

}  // namespace pepnet::python
