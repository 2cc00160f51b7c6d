// Stored rows: their keys' index, rows at positions, and a table of both.
#include <memory>

#include "arrays.h"
#include "rows/gather.h"
#include "rows/key_index.h"

namespace pepnet::python {

namespace {

std::unique_ptr<KeyIndex> index_of(const py::array& keys) {
  const auto view = keys_of(keys);
  const ReleasedGil released;
  return std::make_unique<KeyIndex>(view);
}

py::array_t<std::int64_t> positions_in(const KeyIndex& index, const py::array& keys) {
  const auto view = keys_of(keys);
  return filled<std::int64_t>(view.size(), [&](std::int64_t* positions) { index.find(view, positions); });
}

void check_positions(const PackedArray<std::int64_t>& positions, std::size_t count) {
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::int64_t position = positions[i];
    if (position < KeyIndex::kAbsent || position >= static_cast<std::int64_t>(count)) {
      throw py::value_error("positions: expected -1 to " +
                            std::to_string(static_cast<std::int64_t>(count) - 1) + ", got " +
                            std::to_string(position) + " at " + std::to_string(i));
    }
  }
}

std::size_t gather_rows(const py::array& rows, const py::array& positions, const py::array& default_row,
                        const py::array& out) {
  const RowsView source = rows_of("rows", rows);
  const PackedArray<std::int64_t> wanted = vector_of<std::int64_t>("positions", positions);
  const PackedArray<float> fallback = default_of("default_row", default_row, source.dim);
  const OutView target = out_of("out", out, wanted.size(), source.dim);
  const ReleasedGil released;
  check_positions(wanted, source.count);
  return gather(source, wanted, fallback, target);
}

std::size_t pool_rows(const py::array& rows, const py::array& positions, const py::array& offsets,
                      const std::string& pooling, const py::array& default_row, const py::array& out) {
  const RowsView source = rows_of("rows", rows);
  const PackedArray<std::int64_t> wanted = vector_of<std::int64_t>("positions", positions);
  const Bags bags = bags_of(offsets, pooling);
  const PackedArray<float> fallback = default_of("default_row", default_row, source.dim);
  const OutView target = out_of("out", out, bags.count, source.dim);
  const ReleasedGil released;
  check_positions(wanted, source.count);
  check_offsets(bags.offsets, wanted.size());
  return pool(source, wanted, bags.offsets, bags.pooling, fallback, target);
}

// Rows and the index over their keys, so that a field of a batch is one call. The arrays are kept, not
// copied: a table over a mapped file reads the file's pages as they are asked for.
class Table {
 public:
  Table(const py::array& keys, py::array rows, py::array default_row)
      : rows_array_(std::move(rows)),
        default_array_(std::move(default_row)),
        rows_(rows_of("rows", rows_array_)),
        default_(default_of("default_row", default_array_, rows_.dim)),
        index_(build(keys, rows_.count)) {}

  std::size_t lookup(const py::array& keys, const py::array& out,
                     const std::optional<py::array>& found) const {
    const auto wanted = keys_of(keys);
    const OutView target = out_of("out", out, wanted.size(), rows_.dim);
    bool* const flags = written_of<bool>("found", found, wanted.size());
    const ReleasedGil released;
    return pepnet::lookup(index_, rows_, wanted, default_, target, flags);
  }

  std::size_t pool(const py::array& keys, const py::array& offsets, const std::string& pooling,
                   const py::array& out) const {
    const auto wanted = keys_of(keys);
    const Bags bags = bags_of(offsets, pooling);
    const OutView target = out_of("out", out, bags.count, rows_.dim);
    const ReleasedGil released;
    check_offsets(bags.offsets, wanted.size());
    return lookup_pool(index_, rows_, wanted, bags.offsets, bags.pooling, default_, target);
  }

  const KeyIndex& index() const { return index_; }
  const RowsView& rows() const { return rows_; }

 private:
  static KeyIndex build(const py::array& keys, std::size_t rows) {
    const auto view = keys_of(keys);
    if (view.size() != rows) refuse("keys", std::to_string(rows) + ", one a row", keys);
    const ReleasedGil released;
    return KeyIndex(view);
  }

  py::array rows_array_;
  py::array default_array_;
  RowsView rows_;
  PackedArray<float> default_;
  KeyIndex index_;
};

}  // namespace

void bind_tables(py::module_& module) {
  py::class_<KeyIndex>(module, "KeyIndex", "Key → position; built once, read by any number of threads.")
      .def(py::init(&index_of), "keys"_a,
           "Indexes uint64 [N] keys in any order. ValueError for a key that comes twice.")
      .def("find", &positions_in, "keys"_a,
           "uint64 [n] → int64 [n]: the position of each key, -1 where absent.")
      .def("__len__", &KeyIndex::size)
      .def_property_readonly("memory_bytes", &KeyIndex::memory_bytes);
  module.def(
      "gather", &gather_rows, "rows"_a, "positions"_a, "default_row"_a, "out"_a,
      "out[i] = rows[positions[i]] as float32, default_row where the position is -1; returns how many were.");
  module.def(
      "pool", &pool_rows, "rows"_a, "positions"_a, "offsets"_a, "pooling"_a, "default_row"_a, "out"_a,
      "out[b] = mean or sum of the rows of bag b, zeros for an empty one; returns how many were unknown.");
  py::class_<Table>(module, "Table",
                    "Rows by key: an index over keys and rows read in place. Safe from any thread.")
      .def(py::init<const py::array&, py::array, py::array>(), "keys"_a, "rows"_a, "default_row"_a,
           "uint64 [N] distinct keys; [N, dim] float32, float16 or uint16 (bfloat16); float32 [dim].")
      .def("lookup", &Table::lookup, "keys"_a, "out"_a, "found"_a = py::none(),
           "Writes the row of each key to float32 [n, dim] `out`, the default row for an unknown one, and "
           "whether it was known to bool [n] `found`; returns how many were unknown.")
      .def("pool", &Table::pool, "keys"_a, "offsets"_a, "pooling"_a, "out"_a,
           "Writes the mean or sum of each bag's rows to float32 [B, dim] `out`; returns how many keys were "
           "unknown.")
      .def("__len__", [](const Table& t) { return t.rows().count; })
      .def_property_readonly("dim", [](const Table& t) { return t.rows().dim; })
      .def_property_readonly("index", &Table::index, py::return_value_policy::reference_internal);
}

}  // namespace pepnet::python
