// What each function does is said in cache/flights.h.
#include "cache/flights.h"

#include "arrays.h"

namespace pepnet::python {

namespace {

using cache::FlightTable;

py::object land(FlightTable& table, Keys keys, std::uint64_t flight) {
  // A place of the table without a flight has the number 0.
  if (flight == 0) throw py::value_error("flight: expected 1 or more, got 0");
  std::size_t count = 0;
  auto kept = filled<bool>(keys.size(), [&](bool* out) { count = table.land(keys, flight, out); });
  return count == keys.size() ? py::object(py::none()) : py::object(std::move(kept));
}

py::tuple lacking(Keys keys, const py::array& outcomes) {
  const PackedArray<std::uint8_t> known = vector_of<std::uint8_t>("outcomes", outcomes);
  if (known.size() != keys.size()) refuse("outcomes", std::to_string(keys.size()) + ", one a key", outcomes);
  cache::Misses found;
  {
    const ReleasedGil released;
    found = cache::lacking(keys, known);
  }
  const bool all = found.keys.size() == found.positions.size();
  return py::make_tuple(array_of(found.positions),
                        all ? py::object(py::none()) : py::object(array_of(found.asked)),
                        array_of(found.keys));
}

py::tuple distinct(Keys keys) {
  std::vector<std::uint64_t> found;
  auto which =
      filled<std::int64_t>(keys.size(), [&](std::int64_t* out) { found = cache::distinct(keys, out); });
  return py::make_tuple(array_of(found), std::move(which));
}

std::size_t serve(const py::array& rows, const py::array& sources, const py::array& positions,
                  const py::array& default_row, const py::array& out) {
  const RowsView view = rows_of("rows", rows);
  expect_type<float>("rows", rows);
  const PackedArray<float> row = default_of("default_row", default_row, view.dim);
  const auto from = vector_of<std::int64_t>("sources", sources);
  const auto to = vector_of<std::int64_t>("positions", positions);
  if (from.size() != to.size()) refuse("sources", std::to_string(to.size()) + ", one a position", sources);
  const OutView target = out_of("out", out, out.ndim() == 2 ? length(out) : 0, view.dim);
  const ReleasedGil released;
  return cache::serve(view, from, to, row, target);
}

}  // namespace

void bind_flights(py::module_& module) {
  py::class_<FlightTable>(module, "FlightTable",
                          "Which ids are being fetched, and by which flight. Safe from any thread.")
      .def(py::init<>())
      .def("land", &land, "keys"_a, "flight"_a)
      .def("touch", &FlightTable::touch, "keys"_a, py::call_guard<ReleasedGil>())
      .def("__len__", &FlightTable::size);
  module.def("lacking", &lacking, "keys"_a, "outcomes"_a);
  module.def("distinct", &distinct, "keys"_a);
  module.def("serve", &serve, "rows"_a, "sources"_a, "positions"_a, "default_row"_a, "out"_a);
}

}  // namespace pepnet::python
