// What the CUDA library is given of features, made of arrays in one go: with fifty fields that would take
// Python longer than the GPU needs for the scores.

#include <cstring>

#include "arrays.h"
#include "cuda/api.h"

namespace pepnet::python {

namespace {

// The address of an array of T, C-contiguous and aligned, or null for None. What had to be copied, and the
// array itself, go into `held`.
template <class T>
const T* pointer_to(const char* name, const py::handle& given, py::list& held, std::size_t* count = nullptr) {
  if (given.is_none()) return nullptr;
  if (!py::isinstance<py::array_t<T>>(given))
    throw py::type_error(std::string(name) + ": expected an array of " + type_name<T>());
  constexpr int kWanted = py::array::c_style | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  if (py::reinterpret_borrow<py::array>(given).ndim() != 1)
    throw py::value_error(std::string(name) + ": expected one dimension");
  // Not `ensure`: of a copy that there is no memory for it forgets the error.
  const py::array_t<T, kWanted> array(py::reinterpret_borrow<py::object>(given));
  if (count != nullptr) *count = static_cast<std::size_t>(array.shape(0));
  held.append(array);
  return array.data();
}

// What the library reads of a field is as long as its rows say: it is told no lengths but that of keys.
void check_rows(std::size_t rows, std::size_t found, const char* name) {
  if (found != rows)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(rows) + ", got " +
                          std::to_string(found));
}

py::tuple feature_structs(const py::list& given, const py::list& default_rows, std::size_t rows) {
  const std::size_t fields = default_rows.size();
  py::array_t<std::uint8_t> structs(static_cast<py::ssize_t>(fields * sizeof(PepnetFeature)));
  auto* const out = reinterpret_cast<PepnetFeature*>(structs.mutable_data());
  std::memset(structs.mutable_data(), 0, fields * sizeof(PepnetFeature));
  py::array_t<std::int64_t> counts(static_cast<py::ssize_t>(fields));
  std::memset(counts.mutable_data(), 0, fields * sizeof(std::int64_t));
  py::list held;
  for (const py::handle& each : given) {
    const auto one = py::cast<py::tuple>(each);
    if (one.size() != 5) throw py::value_error("given: expected (field, keys, offsets, values, shared)");
    const auto field = one[0].cast<std::size_t>();
    if (field >= fields) throw py::value_error("given: expected fields below " + std::to_string(fields));
    const std::size_t own = one[4].cast<bool>() ? 1 : rows;
    std::size_t count = 0, ends = 0;
    PepnetFeature& feature = out[field];
    feature.keys = pointer_to<std::uint64_t>("keys", one[1], held, &count);
    feature.offsets = pointer_to<std::int64_t>("offsets", one[2], held, &ends);
    feature.values = pointer_to<float>("values", one[3], held, feature.keys == nullptr ? &count : nullptr);
    if (feature.offsets != nullptr) {
      check_rows(own + 1, ends, "offsets");
    } else {
      check_rows(own, count, feature.keys != nullptr ? "keys" : "values");
    }
    feature.default_row = pointer_to<float>("default_rows", default_rows[field], held);
    feature.count = static_cast<std::int64_t>(count);
    feature.shared = one[4].cast<bool>() ? 1 : 0;
    counts.mutable_at(static_cast<py::ssize_t>(field)) = feature.count;
  }
  return py::make_tuple(structs, counts, held);
}

}  // namespace

void bind_device_features(py::module_& module) {
  module.def("feature_structs", &feature_structs, "given"_a, "default_rows"_a, "rows"_a,
             "(field, uint64 keys, int64 offsets, float32 values, shared) of each field, None where there "
             "is none, of `rows` rows or, shared, of one -> PepnetFeature [fields] as bytes, how many keys "
             "or values each has, what they point to.");
}

}  // namespace pepnet::python
