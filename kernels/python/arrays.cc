#include "arrays.h"

#include "cpu/named.h"

namespace pepnet::python {

namespace {

constexpr auto kFloat = static_cast<py::ssize_t>(sizeof(float));

std::string shape_text(std::size_t rows, std::size_t columns) {
  return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
}

}  // namespace

std::string describe(const py::array& array) {
  std::string text = py::str(array.dtype());
  text += " [";
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis)
    text += (axis == 0 ? "" : ", ") + std::to_string(array.shape(axis));
  return text + (is_packed(array) ? "]" : "] with gaps");
}

void refuse(const char* name, const std::string& expected, const py::array& got) {
  throw py::value_error(std::string(name) + ": expected " + expected + ", got " + describe(got));
}

RowsView rows_of(const char* name, const py::array& array) {
  RowType type = RowType::kFloat32;
  if (py::isinstance<py::array_t<std::uint16_t>>(array)) {
    type = RowType::kBfloat16;
  } else if (array.dtype().equal(py::dtype("float16"))) {
    type = RowType::kFloat16;
  } else if (!py::isinstance<py::array_t<float>>(array)) {
    throw py::type_error(std::string(name) + ": expected float32, float16 or uint16 (bfloat16), got " +
                         describe(array));
  }
  if (array.ndim() != 2 || array.shape(1) < 1 || !is_packed(array))
    refuse(name, "[N, dim] without gaps", array);
  return {static_cast<const std::byte*>(array.data()), length(array), length(array, 1), type};
}

OutView out_of(const char* name, const py::array& array, std::size_t rows, std::size_t columns) {
  expect_type<float>(name, array);
  if (array.ndim() != 2 || length(array) != rows || length(array, 1) != columns)
    refuse(name, shape_text(rows, columns), array);
  // A stride along an axis of one entry, or of an array without entries, is never taken and may be anything.
  const bool gaps = rows > 0 && columns > 1 && array.strides(1) != kFloat;
  const bool between = rows > 1 && array.strides(0) % kFloat != 0;
  if (!array.writeable() || gaps || between || !is_aligned<float>(array))
    refuse(name, "writeable, aligned rows without gaps", array);
  // Rows closer together than they are wide would be written over one another, by us and in no order.
  const py::ssize_t stride = array.strides(0) / kFloat;
  const auto width = static_cast<py::ssize_t>(columns);
  if (rows > 1 && stride < width && -stride < width) refuse(name, "rows that do not overlap", array);
  return {static_cast<float*>(const_cast<py::array&>(array).mutable_data()), rows,
          static_cast<std::ptrdiff_t>(stride)};
}

MatrixView matrix_of(const char* name, const py::array& array) {
  expect_type<float>(name, array);
  const bool matrix = array.ndim() == 2;
  const bool filled = matrix && array.size() > 0;
  const bool gaps = filled && array.shape(1) > 1 && array.strides(1) != kFloat;
  const bool between =
      filled && array.shape(0) > 1 && (array.strides(0) % kFloat != 0 || array.strides(0) < 0);
  if (!matrix || gaps || between || !is_aligned<float>(array))
    refuse(name, "aligned [rows, columns] in ascending order, no gaps in a row", array);
  return {static_cast<const float*>(array.data()), length(array), length(array, 1),
          filled && array.shape(0) > 1 ? static_cast<std::size_t>(array.strides(0) / kFloat) : 0};
}

PackedArray<float> default_of(const char* name, const py::array& array, std::size_t dim) {
  const PackedArray<float> view = vector_of<float>(name, array);
  if (view.size() != dim) refuse(name, "[" + std::to_string(dim) + "]", array);
  return view;
}

Bags bags_of(const py::array& offsets, const std::string& pooling) {
  constexpr Named<Pooling> kNames[] = {{"mean", Pooling::kMean}, {"sum", Pooling::kSum}};
  const PackedArray<std::int64_t> view = vector_of<std::int64_t>("offsets", offsets);
  if (view.size() == 0)
    throw py::value_error("offsets: expected one more entry than there are bags, got none");
  return {view, view.size() - 1, value_named("pooling", kNames, pooling)};
}

void check_offsets(const PackedArray<std::int64_t>& offsets, std::size_t size) {
  std::int64_t before = 0;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    const std::int64_t offset = offsets[i];
    if (offset < before || offset > static_cast<std::int64_t>(size))
      throw py::value_error("offsets: expected ascending values from 0 to " + std::to_string(size) +
                            ", got " + (i == 0 ? "" : std::to_string(before) + " then ") +
                            std::to_string(offset) + " at " + std::to_string(i));
    before = offset;
  }
}

}  // namespace pepnet::python
