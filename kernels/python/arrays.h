// NumPy arrays at the border: checked once here, plain views of memory behind it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>

#include "rows/packed.h"
#include "rows/pool.h"
#include "rows/rows.h"

namespace pepnet::python {

namespace py = pybind11;

// "int64 [3, 40]": what an error says it got.
std::string describe(const py::array& array);

template <class T>
constexpr const char* type_name();
template <>
constexpr const char* type_name<std::uint64_t>() {
  return "uint64";
}
template <>
constexpr const char* type_name<std::int64_t>() {
  return "int64";
}
template <>
constexpr const char* type_name<std::uint8_t>() {
  return "uint8";
}
template <>
constexpr const char* type_name<double>() {
  return "float64";
}
template <>
constexpr const char* type_name<float>() {
  return "float32";
}

// Throws TypeError unless `array` holds T in native byte order, ValueError unless it has one dimension and no
// gaps. Nothing is converted: a silent copy of a large column would be a cost that nobody asked for.
template <class T>
PackedArray<T> vector_of(const char* name, const py::array& array) {
  if (!py::isinstance<py::array_t<T>>(array)) {
    throw py::type_error(std::string(name) + ": expected " + type_name<T>() + ", got " + describe(array));
  }
  if (array.ndim() != 1 || (array.shape(0) > 1 && array.strides(0) != static_cast<py::ssize_t>(sizeof(T)))) {
    throw py::value_error(std::string(name) + ": expected one dimension without gaps, got " +
                          describe(array));
  }
  return PackedArray<T>(array.data(), static_cast<std::size_t>(array.shape(0)));
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

// A bool [size] destination without gaps.
bool* flags_of(const char* name, const py::array& array, std::size_t size);

// A float32 [dim] vector.
PackedArray<float> default_of(const char* name, const py::array& array, std::size_t dim);

// A [size] array of T without gaps, or none.
template <class T>
const T* optional_of(const char* name, const std::optional<py::array>& array, std::size_t size) {
  if (!array) return nullptr;
  if (!py::isinstance<py::array_t<T>>(*array)) {
    throw py::type_error(std::string(name) + ": expected " + std::string(py::str(py::dtype::of<T>())) +
                         ", got " + describe(*array));
  }
  if (array->ndim() != 1 || static_cast<std::size_t>(array->shape(0)) != size ||
      (array->flags() & py::array::c_style) == 0 ||
      reinterpret_cast<std::uintptr_t>(array->data()) % alignof(T) != 0) {
    throw py::value_error(std::string(name) + ": expected [" + std::to_string(size) + "] without gaps, got " +
                          describe(*array));
  }
  return static_cast<const T*>(array->data());
}

// A uint8 [size] destination, or none.
template <class T>
T* outcomes_of(const char* name, const std::optional<py::array>& array, std::size_t size) {
  static_assert(sizeof(T) == 1);
  if (!array) return nullptr;
  if (!array->writeable()) {
    throw py::value_error(std::string(name) + ": expected a writeable array, got " + describe(*array));
  }
  return reinterpret_cast<T*>(const_cast<std::uint8_t*>(optional_of<std::uint8_t>(name, array, size)));
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
