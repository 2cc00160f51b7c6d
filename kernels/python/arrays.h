// NumPy arrays at the border: checked once here, plain views of memory behind it.
#pragma once

#include <pybind11/numpy.h>

#include <optional>
#include <string>

#include "bindings.h"
#include "rows/lookup.h"

namespace pepnet::python {

// "int64 [3, 40]": what an error says it got.
std::string describe(const py::array& array);

// Throws ValueError: "name: expected [3, 4], got float32 [3, 5]".
[[noreturn]] void refuse(const char* name, const std::string& expected, const py::array& got);

template <class T>
std::string type_name() {
  return py::str(py::dtype::of<T>());
}

// Throws TypeError unless `array` holds T in native byte order. Nothing is converted: a silent copy of a
// large column would be a cost that nobody asked for.
template <class T>
void expect_type(const char* name, const py::array& array) {
  if (!py::isinstance<py::array_t<T>>(array))
    throw py::type_error(std::string(name) + ": expected " + type_name<T>() + ", got " + describe(array));
}

inline std::size_t length(const py::array& array, int axis = 0) {
  return static_cast<std::size_t>(array.shape(axis));
}

inline bool is_packed(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

template <class T>
bool is_aligned(const py::array& array) {
  return reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) == 0;
}

// One dimension without gaps, at any address.
template <class T>
PackedArray<T> vector_of(const char* name, const py::array& array) {
  expect_type<T>(name, array);
  if (array.ndim() != 1 || (array.shape(0) > 1 && array.strides(0) != static_cast<py::ssize_t>(sizeof(T))))
    refuse(name, "one dimension without gaps", array);
  return PackedArray<T>(array.data(), length(array));
}

using Keys = PackedArray<std::uint64_t>;

// A new array of `size`, which `fill` writes without the interpreter's lock.
template <class T, class Fill>
py::array_t<T> filled(std::size_t size, const Fill& fill) {
  py::array_t<T> array(static_cast<py::ssize_t>(size));
  T* const out = array.mutable_data();
  {
    const ReleasedGil released;
    fill(out);
  }
  return array;
}

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// The rows of a table: float32, float16, or uint16 read as bfloat16, [N, dim] without gaps, at any address.
RowsView rows_of(const char* name, const py::array& array);

// A float32 [rows, columns] destination: writeable, aligned, rows any distance apart, no gaps within a row.
OutView out_of(const char* name, const py::array& array, std::size_t rows, std::size_t columns);

// A float32 [rows, columns] matrix that is only read: rows in ascending order, any distance apart, no
// gaps within a row.
struct MatrixView {
  const float* data = nullptr;
  std::size_t rows = 0, columns = 0;
  std::size_t stride = 0;  // floats
  const float* row(std::size_t r) const { return data + r * stride; }
};
MatrixView matrix_of(const char* name, const py::array& array);

// A float32 [dim] vector.
PackedArray<float> default_of(const char* name, const py::array& array, std::size_t dim);

// A [size] array of T without gaps, or none.
template <class T>
const T* optional_of(const char* name, const std::optional<py::array>& array, std::size_t size) {
  if (!array) return nullptr;
  expect_type<T>(name, *array);
  if (array->ndim() != 1 || length(*array) != size || !is_packed(*array) || !is_aligned<T>(*array))
    refuse(name, "[" + std::to_string(size) + "] without gaps", *array);
  return static_cast<const T*>(array->data());
}

// The same to be written to. What T's values mean may be a type of its size, such as an enumeration.
template <class T, class Meaning = T>
Meaning* written_of(const char* name, const std::optional<py::array>& array, std::size_t size) {
  static_assert(sizeof(T) == sizeof(Meaning));
  const T* const values = optional_of<T>(name, array, size);
  if (array && !array->writeable()) refuse(name, "a writeable array", *array);
  return reinterpret_cast<Meaning*>(const_cast<T*>(values));
}

// The bags that int64 [B+1] offsets cut, and what becomes of each.
struct Bags {
  PackedArray<std::int64_t> offsets;
  std::size_t count;
  Pooling pooling;
};
Bags bags_of(const py::array& offsets, const std::string& pooling);

// Throws ValueError unless offsets rise within [0, size]. Needs no GIL.
void check_offsets(const PackedArray<std::int64_t>& offsets, std::size_t size);

}  // namespace pepnet::python

namespace pybind11::detail {

// An argument of keys: uint64 [N]. An array of anything else is refused by name, as `vector_of` does it.
template <>
class type_caster<pepnet::python::Keys> {
 public:
  static constexpr auto name = const_name("numpy.ndarray");
  template <class>
  using cast_op_type = const pepnet::python::Keys&;

  bool load(handle given, bool /*convert*/) {
    if (!isinstance<array>(given)) return false;
    held_ = reinterpret_borrow<object>(given);
    keys_ = pepnet::python::vector_of<std::uint64_t>("keys", reinterpret_borrow<array>(given));
    return true;
  }
  explicit operator const pepnet::python::Keys&() const { return keys_; }

 private:
  object held_;
  pepnet::python::Keys keys_{nullptr, 0};
};

}  // namespace pybind11::detail
