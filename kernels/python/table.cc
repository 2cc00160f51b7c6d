#include <atomic>

#include "arrays.h"
#include "rows/gather.h"

namespace pepnet::python {

namespace {

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
    bool* const flags = flags_of("found", found, wanted.size());
    const ReleasedGil released;
    return counted(wanted.size(), pepnet::lookup(index_, rows_, wanted, default_, target, flags));
  }

  std::size_t pool(const py::array& keys, const py::array& offsets, const std::string& pooling,
                   const py::array& out) const {
    const auto wanted = keys_of(keys);
    const Bags bags = bags_of(offsets, pooling);
    const OutView target = out_of("out", out, bags.count, rows_.dim);
    const ReleasedGil released;
    check_offsets(bags.offsets, wanted.size());
    const auto asked = static_cast<std::size_t>(bags.offsets[bags.count] - bags.offsets[0]);
    return counted(asked, lookup_pool(index_, rows_, wanted, bags.offsets, bags.pooling, default_, target));
  }

  const KeyIndex& index() const { return index_; }
  const RowsView& rows() const { return rows_; }
  std::uint64_t lookups() const { return lookups_.load(std::memory_order_relaxed); }
  std::uint64_t unknown() const { return unknown_.load(std::memory_order_relaxed); }

 private:
  static KeyIndex build(const py::array& keys, std::size_t rows) {
    const auto view = keys_of(keys);
    if (view.size() != rows) refuse("keys", std::to_string(rows) + ", one a row", keys);
    const ReleasedGil released;
    return KeyIndex(view);
  }

  std::size_t counted(std::size_t asked, std::size_t unknown) const {
    lookups_.fetch_add(asked, std::memory_order_relaxed);
    unknown_.fetch_add(unknown, std::memory_order_relaxed);
    return unknown;
  }

  py::array rows_array_;
  py::array default_array_;
  RowsView rows_;
  PackedArray<float> default_;
  KeyIndex index_;
  // Beside the index, which every lookup reads: on lines of their own, so that counting does not evict it.
  alignas(kCacheLine) mutable std::atomic<std::uint64_t> lookups_{0};
  mutable std::atomic<std::uint64_t> unknown_{0};
};

}  // namespace

void bind_table(py::module_& module) {
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
      .def_property_readonly("index", &Table::index, py::return_value_policy::reference_internal)
      .def_property_readonly("lookups", &Table::lookups)
      .def_property_readonly("unknown", &Table::unknown);
}

}  // namespace pepnet::python
