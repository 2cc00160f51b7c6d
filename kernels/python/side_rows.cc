#include "encode/side_rows.h"

#include "arrays.h"

namespace pepnet::python {

namespace {

// An aligned [rows, width] matrix of T without gaps, which stays as it is.
template <class T>
const T* whole_matrix(const char* name, const py::array& array, std::size_t rows) {
  expect_type<T>(name, array);
  if (array.ndim() != 2 || length(array) != rows || !is_packed(array) || !is_aligned<T>(array))
    refuse(name, "[" + std::to_string(rows) + ", fields] without gaps", array);
  return static_cast<const T*>(array.data());
}

// A side table's rows by entity. The arrays are held, not copied.
class SideRows {
 public:
  // keys [N]; ids and dense [N+1, fields], the last row that of an entity which is not there; of each field
  // of bags its keys and offsets [N+2].
  SideRows(Keys keys, const py::array& ids, const py::array& dense,
           const std::vector<std::pair<py::array, py::array>>& bags)
      : index_(keys),
        rows_(index_.size() + 1),
        ids_(whole_matrix<std::uint64_t>("ids", ids, rows_)),
        dense_(whole_matrix<float>("dense", dense, rows_)),
        id_fields_(length(ids, 1)),
        dense_fields_(length(dense, 1)),
        held_(py::make_tuple(ids, dense, bags)) {
    for (const auto& [bag_keys, offsets] : bags) {
      const BagsView view{vector_of<std::uint64_t>("bag keys", bag_keys),
                          vector_of<std::int64_t>("bag offsets", offsets)};
      if (view.offsets.size() != rows_ + 1)
        refuse("bag offsets", "[" + std::to_string(rows_ + 1) + "]", offsets);
      check_offsets(view.offsets, view.keys.size());
      bags_.push_back(view);
    }
  }

  // Returns, for the fields at these places, ids [ids, B], dense values [dense, B], and (keys, offsets
  // [B+1]).
  py::tuple take(Keys wanted, const std::vector<std::size_t>& ids, const std::vector<std::size_t>& dense,
                 const std::vector<std::size_t>& bags) const {
    check_fields("ids", ids, id_fields_);
    check_fields("dense", dense, dense_fields_);
    check_fields("bags", bags, bags_.size());
    const std::size_t count = wanted.size();
    const auto columns = static_cast<py::ssize_t>(count);
    py::array_t<std::uint64_t> id_columns({static_cast<py::ssize_t>(ids.size()), columns});
    py::array_t<float> dense_columns({static_cast<py::ssize_t>(dense.size()), columns});
    std::vector<py::array_t<std::int64_t>> offsets;
    for (std::size_t i = 0; i < bags.size(); ++i) offsets.emplace_back(columns + 1);
    std::vector<std::int64_t> positions(count);
    std::vector<std::size_t> sizes(bags.size());
    {
      std::uint64_t* const id = id_columns.mutable_data();
      float* const value = dense_columns.mutable_data();
      std::vector<std::int64_t*> ends;
      for (auto& each : offsets) ends.push_back(each.mutable_data());
      const ReleasedGil released;
      index_.find(wanted, positions.data());
      for (std::int64_t& position : positions)
        if (position < 0) position = static_cast<std::int64_t>(rows_ - 1);
      pick_columns(ids_, id_fields_, ids.data(), ids.size(), positions.data(), count, id);
      pick_columns(dense_, dense_fields_, dense.data(), dense.size(), positions.data(), count, value);
      for (std::size_t i = 0; i < bags.size(); ++i)
        sizes[i] = pick_offsets(bags_[bags[i]], positions.data(), count, ends[i]);
    }
    py::list picked;
    for (std::size_t i = 0; i < bags.size(); ++i) {
      auto bag_keys = filled<std::uint64_t>(
          sizes[i], [&](std::uint64_t* out) { pick_keys(bags_[bags[i]], positions.data(), count, out); });
      picked.append(py::make_tuple(std::move(bag_keys), offsets[i]));
    }
    return py::make_tuple(std::move(id_columns), std::move(dense_columns), std::move(picked));
  }

 private:
  static void check_fields(const char* name, const std::vector<std::size_t>& fields, std::size_t count) {
    for (const std::size_t field : fields)
      if (field >= count)
        throw py::value_error(std::string(name) + ": expected fields below " + std::to_string(count) +
                              ", got " + std::to_string(field));
  }

  KeyIndex index_;
  std::size_t rows_;  // the last is that of an entity which is not there
  const std::uint64_t* ids_;
  const float* dense_;
  std::size_t id_fields_, dense_fields_;
  std::vector<BagsView> bags_;
  py::tuple held_;  // what the pointers point into
};

}  // namespace

void bind_side_rows(py::module_& module) {
  py::class_<SideRows>(module, "SideRows", "A side table's rows by entity; read by any number of threads.")
      .def(py::init<Keys, const py::array&, const py::array&,
                    const std::vector<std::pair<py::array, py::array>>&>(),
           "keys"_a, "ids"_a, "dense"_a, "bags"_a)
      .def("take", &SideRows::take, "keys"_a, "ids"_a, "dense"_a, "bags"_a);
}

}  // namespace pepnet::python
