#include "cache/flights.h"

#include <limits>

#include "arrays.h"
#include "bindings.h"
#include "released_gil.h"

namespace pepnet::python {

namespace {

using cache::FlightTable;
using Keys = py::array_t<std::uint64_t>;

py::ssize_t length(std::size_t size) { return static_cast<py::ssize_t>(size); }

// A place of the table without a flight has the number 0.
void check_number(std::uint64_t flight) {
  if (flight == 0) throw py::value_error("flight: expected 1 or more, got 0");
}

Keys begin(FlightTable& table, const py::array& keys, std::uint64_t flight) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  check_number(flight);
  Keys owners(length(view.size()));
  std::uint64_t* out = owners.mutable_data();
  {
    const ReleasedGil released;
    table.begin(view, flight, out);
  }
  return owners;
}

py::object land(FlightTable& table, const py::array& keys, std::uint64_t flight) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  check_number(flight);
  py::array_t<bool> kept(length(view.size()));
  bool* out = kept.mutable_data();
  std::size_t count = 0;
  {
    const ReleasedGil released;
    count = table.land(view, flight, out);
  }
  return count == view.size() ? py::object(py::none()) : py::object(std::move(kept));
}

void end(FlightTable& table, const py::array& keys, std::uint64_t flight) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  check_number(flight);
  const ReleasedGil released;
  table.end(view, flight);
}

void touch(FlightTable& table, const py::array& keys) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  const ReleasedGil released;
  table.touch(view);
}

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(length(values.size()), values.data());
}

py::tuple lacking(const py::array& keys, const py::array& outcomes) {
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  const PackedArray<std::uint8_t> known = vector_of<std::uint8_t>("outcomes", outcomes);
  if (known.size() != view.size()) {
    throw py::value_error("outcomes: expected " + std::to_string(view.size()) + ", one a key, got " +
                          describe(outcomes));
  }
  cache::Lacking found;
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
  const PackedArray<std::uint64_t> view = vector_of<std::uint64_t>("keys", keys);
  if (view.size() >= std::numeric_limits<std::uint32_t>::max()) {
    throw py::value_error("keys: expected fewer than 2^32 - 1, got " + describe(keys));
  }
  py::array_t<std::int64_t> which(length(view.size()));
  std::int64_t* out = which.mutable_data();
  std::vector<std::uint64_t> found;
  {
    const ReleasedGil released;
    found = cache::distinct(view, out);
  }
  return py::make_tuple(array_of(found), std::move(which));
}

std::size_t serve(const py::array& rows, const py::array& sources, const py::array& positions,
                  const py::array& default_row, const py::array& out) {
  const RowsView view = rows_of("rows", rows);
  if (view.type != RowType::kFloat32) {
    throw py::type_error("rows: expected float32, got " + describe(rows));
  }
  const PackedArray<float> row = default_of("default_row", default_row, view.dim);
  const auto from = vector_of<std::int64_t>("sources", sources);
  const auto to = vector_of<std::int64_t>("positions", positions);
  if (from.size() != to.size()) {
    throw py::value_error("sources: expected " + std::to_string(to.size()) + ", one a position, got " +
                          describe(sources));
  }
  const std::size_t count = out.ndim() == 2 ? static_cast<std::size_t>(out.shape(0)) : 0;
  const OutView target = out_of("out", out, count, view.dim);
  const ReleasedGil released;
  return cache::serve(view, from, to, row, target);
}

}  // namespace

void bind_flights(py::module_& module) {
  py::class_<FlightTable>(module, "FlightTable",
                          "Which ids are being fetched, and by which flight. Safe from any thread.")
      .def(py::init<>())
      .def(
          "begin", &begin, py::arg("keys"), py::arg("flight"),
          "uint64 [N] distinct keys → uint64 [N]: the flight that fetches each from here on, `flight` unless "
          "another does already.")
      .def("land", &land, py::arg("keys"), py::arg("flight"),
           "Before rows of `flight` are written to the cache: None where all may be, else bool [N] which. "
           "`end` must follow: until then `touch` of these keys waits.")
      .def("end", &end, py::arg("keys"), py::arg("flight"),
           "Lets go of `keys`, those that `flight` began with, where it still has them.")
      .def("touch", &touch, py::arg("keys"),
           "Before an update or deletion of uint64 [N] `keys` is written to the cache.")
      .def("__len__", &FlightTable::size);
  module.def(
      "lacking", &lacking, py::arg("keys"), py::arg("outcomes"),
      "uint64 [N], uint8 [N] → (positions int64 [M] of keys without a row, which of these the store is "
      "to be asked for, None: all, and the keys of these).");
  module.def("distinct", &distinct, py::arg("keys"),
             "uint64 [N] → (the distinct keys in the order in which they first come, int64 [N] which of them "
             "each key is).");
  module.def("serve", &serve, py::arg("rows"), py::arg("sources"), py::arg("positions"),
             py::arg("default_row"), py::arg("out"),
             "out[positions[i]] = rows[sources[i]], or `default_row` float32 [dim] where there is no such "
             "row; positions outside of `out` are passed over. Returns how many got the default row.");
}

}  // namespace pepnet::python
