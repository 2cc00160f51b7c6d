#include "arrays.h"

namespace pepnet::python {

namespace {

// Sums by key. Additions are one call, made with the GIL: no exception comes between two of them, and no lock
// can be left held by a thread that was interrupted.
class Tally {
 public:
  // items: (key, (numbers…)) each, of a key always as many. All numbers are read before any is added: a wrong
  // item refuses the call.
  void add(const py::list& items) {
    // What stands for a number may call anything, this object too, and change the list. So may a key's hash
    // and comparison.
    const py::tuple held(items);
    std::vector<std::uint64_t> added;
    added.reserve(8 * held.size());
    for (const py::handle item : held) {
      if (!PyTuple_Check(item.ptr()) || PyTuple_GET_SIZE(item.ptr()) != 2) {
        throw py::type_error("items: expected (key, numbers) each");
      }
      PyObject* const numbers = PyTuple_GET_ITEM(item.ptr(), 1);
      if (!PyTuple_Check(numbers)) throw py::type_error("items: expected a tuple of integers for each key");
      for (const py::handle number : py::reinterpret_borrow<py::tuple>(numbers)) {
        const long long value = PyLong_AsLongLong(number.ptr());
        if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
        added.push_back(static_cast<std::uint64_t>(value));
      }
    }
    auto next = added.cbegin();
    for (const py::handle item : held) {
      std::vector<std::uint64_t>& sums = of(PyTuple_GET_ITEM(item.ptr(), 0));
      const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(PyTuple_GET_ITEM(item.ptr(), 1)));
      if (sums.size() < count) sums.resize(count);
      for (std::size_t i = 0; i < count; ++i) sums[i] += *next++;
    }
  }

  py::dict read() const {
    // Copied before a tuple is made: up to Python 3.11 that may collect garbage, whose finalizers, and the
    // threads that run meanwhile, may add.
    std::vector<std::pair<py::object, std::vector<std::uint64_t>>> copied;
    for (const auto& [key, at] : places_) {
      copied.emplace_back(py::reinterpret_borrow<py::object>(key), sums_[PyLong_AsSize_t(at.ptr())]);
    }
    py::dict all;
    for (const auto& [key, sums] : copied) {
      py::tuple numbers(static_cast<py::ssize_t>(sums.size()));
      for (std::size_t i = 0; i < sums.size(); ++i) numbers[i] = py::int_(static_cast<std::int64_t>(sums[i]));
      all[key] = std::move(numbers);
    }
    return all;
  }

 private:
  std::vector<std::uint64_t>& of(PyObject* key) {
    PyObject* const at = PyDict_GetItemWithError(places_.ptr(), key);
    if (at != nullptr) return sums_[PyLong_AsSize_t(at)];
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    const std::size_t place = sums_.size();
    sums_.emplace_back();
    places_[py::handle(key)] = py::int_(place);  // whose comparison may have added others
    return sums_[place];
  }

  py::dict places_;                               // key → place in `sums_`
  std::vector<std::vector<std::uint64_t>> sums_;  // in two's complement: they go round at 2^63
};

}  // namespace

void bind_tally(py::module_& module) {
  py::class_<Tally>(module, "Tally", "Sums of integers by key, in the order in which keys first came.")
      .def(py::init<>())
      .def("add", &Tally::add, "items"_a, "Adds, for each (key, (numbers…)), the numbers to the key's sums.")
      .def("read", &Tally::read, "Returns key → sums.");
}

}  // namespace pepnet::python
