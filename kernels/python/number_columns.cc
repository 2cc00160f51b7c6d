// Columns of plain numbers to the keys and dense values of their fields, all in one call: with fifty columns
// Python takes longer to look at them one by one than a GPU for the scores.

#include <tuple>

#include "arrays.h"
#include "encode/number_column.h"

namespace pepnet::python {

namespace {

// None for what is left out, and for what is no array of plain numbers in native byte order; throws for what
// cannot be a column of this batch.
std::optional<NumberColumn> column_of(const py::handle& given, std::size_t rows) {
  if (given.is_none()) return std::nullopt;
  if (!py::isinstance<py::array>(given))
    throw py::type_error("columns: expected arrays or None, got " +
                         std::string(py::str(py::type::of(given))));
  const auto array = py::reinterpret_borrow<py::array>(given);
  if (array.ndim() != 1) return std::nullopt;
  if (length(array) != rows) refuse("columns", std::to_string(rows) + " rows", array);
  const py::dtype type = array.dtype();
  const auto* const known = number_type(type.kind(), static_cast<std::size_t>(type.itemsize()));
  const bool native = type.byteorder() == '=' || type.byteorder() == '|';
  if (!native || known == nullptr) return std::nullopt;
  return NumberColumn{static_cast<const std::byte*>(array.data()), array.strides(0), known};
}

// Which column of ids a field reads, and the number of its table.
using Use = std::pair<std::size_t, std::uint16_t>;
// Whether log1p comes first, and (mean, std).
using Rule = std::tuple<bool, std::pair<double, double>>;

class NumberColumns {
 public:
  NumberColumns(std::size_t id_columns, std::vector<Use> uses, const std::vector<Rule>& dense)
      : id_columns_(id_columns), uses_(std::move(uses)) {
    for (const auto& [column, table] : uses_)
      if (column >= id_columns)
        throw py::value_error("uses: expected columns below " + std::to_string(id_columns) + ", got " +
                              std::to_string(column));
    for (const auto& [log1p, scale] : dense) rules_.push_back({log1p, scale.first, scale.second});
  }

  py::tuple read(const py::list& ids, const py::list& dense, std::size_t rows) const {
    if (ids.size() != id_columns_ || dense.size() != rules_.size()) {
      throw py::value_error("expected " + std::to_string(id_columns_) + " columns of ids and " +
                            std::to_string(rules_.size()) + " of dense values, got " +
                            std::to_string(ids.size()) + " and " + std::to_string(dense.size()));
    }
    const auto id_columns = columns_of(ids, rows), dense_columns = columns_of(dense, rows);
    const auto count = static_cast<py::ssize_t>(rows);
    py::array_t<std::uint64_t> keys({static_cast<py::ssize_t>(uses_.size()), count});
    py::array_t<float> values({static_cast<py::ssize_t>(rules_.size()), count});
    std::vector<char> plain_ids(id_columns_), plain_dense(rules_.size());
    for (std::size_t i = 0; i < id_columns_; ++i) plain_ids[i] = id_columns[i].has_value();
    {
      std::uint64_t* key = keys.mutable_data();
      float* value = values.mutable_data();
      const ReleasedGil released;
      for (const auto& [number, table] : uses_) {
        char& plain = plain_ids[number];
        plain = plain && keys_of(*id_columns[number], rows, table, key);
        key += rows;
      }
      for (std::size_t i = 0; i < rules_.size(); ++i, value += rows)
        plain_dense[i] = dense_columns[i] && dense_of(*dense_columns[i], rows, rules_[i], value);
    }
    // A list of a matrix is one of its rows, each of which keeps all of it.
    return py::make_tuple(py::list(keys), py::list(values), left_out(plain_ids), left_out(plain_dense));
  }

 private:
  static std::vector<std::optional<NumberColumn>> columns_of(const py::list& given, std::size_t rows) {
    std::vector<std::optional<NumberColumn>> columns;
    columns.reserve(given.size());
    for (const py::handle& each : given) columns.push_back(column_of(each, rows));
    return columns;
  }

  static py::list left_out(const std::vector<char>& plain) {
    py::list list;
    for (std::size_t i = 0; i < plain.size(); ++i)
      if (plain[i] == 0) list.append(i);
    return list;
  }

  std::size_t id_columns_;
  std::vector<Use> uses_;
  std::vector<DenseRule> rules_;
};

py::array_t<double> log1p_of(const py::array& values) {
  const PackedArray<double> given = vector_of<double>("values", values);
  return filled<double>(given.size(), [&](double* out) {
    for (std::size_t i = 0; i < given.size(); ++i) out[i] = given[i];
    signed_log1p(out, given.size(), out);
  });
}

}  // namespace

void bind_number_columns(py::module_& module) {
  py::class_<NumberColumns>(
      module, "NumberColumns",
      "Which of `id_columns` columns each field of ids reads, and its table's number; of each dense column "
      "whether log1p comes first, and (mean, std).")
      .def(py::init<std::size_t, std::vector<Use>, const std::vector<Rule>&>(), "id_columns"_a, "uses"_a,
           "dense"_a)
      .def("read", &NumberColumns::read, "ids"_a, "dense"_a, "rows"_a,
           "An array [rows], or None, for each column -> uint64 keys of each use, float32 values of each "
           "dense column, and which columns of both were left out, with nothing in their place: those that "
           "are no arrays of plain numbers, no ids below 2^48, or not finite.");
  module.def("signed_log1p", &log1p_of, "values"_a);
}

}  // namespace pepnet::python
