#include "cache/flights.h"

#include "arrays.h"

namespace pepnet::python {

namespace {

using cache::FlightTable;

// A place of the table without a flight has the number 0.
void check_number(std::uint64_t flight) {
  if (flight == 0) throw py::value_error("flight: expected 1 or more, got 0");
}

py::array_t<std::uint64_t> begin(FlightTable& table, const py::array& keys, std::uint64_t flight) {
  const auto view = keys_of(keys);
  check_number(flight);
  return filled<std::uint64_t>(view.size(),
                               [&](std::uint64_t* owners) { table.begin(view, flight, owners); });
}

py::object land(FlightTable& table, const py::array& keys, std::uint64_t flight) {
  const auto view = keys_of(keys);
  check_number(flight);
  std::size_t count = 0;
  auto kept = filled<bool>(view.size(), [&](bool* out) { count = table.land(view, flight, out); });
  return count == view.size() ? py::object(py::none()) : py::object(std::move(kept));
}

void end(FlightTable& table, const py::array& keys, std::uint64_t flight) {
  const auto view = keys_of(keys);
  check_number(flight);
  const ReleasedGil released;
  table.end(view, flight);
}

void touch(FlightTable& table, const py::array& keys) {
  const auto view = keys_of(keys);
  const ReleasedGil released;
  table.touch(view);
}

py::tuple lacking(const py::array& keys, const py::array& outcomes) {
  const auto view = keys_of(keys);
  const PackedArray<std::uint8_t> known = vector_of<std::uint8_t>("outcomes", outcomes);
  if (known.size() != view.size()) refuse("outcomes", std::to_string(view.size()) + ", one a key", outcomes);
  cache::Misses found;
  {
    const ReleasedGil released;
    found = cache::lacking(view, known);
  }
  const bool all = found.keys.size() == found.positions.size();
  return py::make_tuple(array_of(found.positions),
                        all ? py::object(py::none()) : py::object(array_of(found.asked)),
                        array_of(found.keys));
}

py::tuple distinct(const py::array& keys) {
  const auto view = keys_of(keys);
  std::vector<std::uint64_t> found;
  auto which =
      filled<std::int64_t>(view.size(), [&](std::int64_t* out) { found = cache::distinct(view, out); });
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
      .def("begin", &begin, "keys"_a, "flight"_a,
           "uint64 [N] distinct keys → uint64 [N]: the flight that fetches each from here on, `flight` "
           "unless another does already.")
      .def("land", &land, "keys"_a, "flight"_a,
           "Before rows of `flight` are written to the cache: None where all may be, else bool [N] which. "
           "`end` must follow: until then `touch` of these keys waits.")
      .def("end", &end, "keys"_a, "flight"_a,
           "Lets go of `keys`, those that `flight` began with, where it still has them.")
      .def("touch", &touch, "keys"_a,
           "Before an update or deletion of uint64 [N] `keys` is written to the cache.")
      .def("__len__", &FlightTable::size);
  module.def(
      "lacking", &lacking, "keys"_a, "outcomes"_a,
      "uint64 [N], uint8 [N] → (positions int64 [M] of keys without a row, which of these the store is to "
      "be asked for, None: all, and the keys of these).");
  module.def("distinct", &distinct, "keys"_a,
             "uint64 [N] → (the distinct keys in the order in which they first come, int64 [N] which of "
             "them each key is).");
  module.def("serve", &serve, "rows"_a, "sources"_a, "positions"_a, "default_row"_a, "out"_a,
             "out[positions[i]] = rows[sources[i]], or `default_row` float32 [dim] where there is no such "
             "row; positions outside of `out` are passed over. Returns how many got the default row.");
}

}  // namespace pepnet::python
