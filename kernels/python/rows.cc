#include "arrays.h"
#include "rows/gather.h"

namespace pepnet::python {

namespace {

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

}  // namespace

void bind_rows(py::module_& module) {
  module.def(
      "gather", &gather_rows, "rows"_a, "positions"_a, "default_row"_a, "out"_a,
      "out[i] = rows[positions[i]] as float32, default_row where the position is -1; returns how many were.");
  module.def(
      "pool", &pool_rows, "rows"_a, "positions"_a, "offsets"_a, "pooling"_a, "default_row"_a, "out"_a,
      "out[b] = mean or sum of the rows of bag b, zeros for an empty one; returns how many were unknown.");
}

}  // namespace pepnet::python
