// A look through Python objects for what Arrow must not be given: in Python it takes half as long as Arrow
// does.
#include <pybind11/numpy.h>

#include "bindings.h"

namespace pepnet::python {

namespace {

// A bag is one list deep. Arrow follows lists as deep as they go, and a list that holds itself until its
// stack ends.
constexpr int kMostDepth = 16;

class NumpyValues {
 public:
  NumpyValues() {
    const py::module_ numpy = py::module_::import("numpy");
    datetime_ = numpy.attr("datetime64");
    duration_ = numpy.attr("timedelta64");
    array_ = numpy.attr("ndarray");
  }

  void look(PyObject* value, int depth) {
    PyTypeObject* const type = Py_TYPE(value);
    if (type == &PyLong_Type || type == &PyFloat_Type || type == &PyUnicode_Type) return;
    if (depth > kMostDepth)
      throw py::type_error("expected lists at most " + std::to_string(kMostDepth) + " deep, got deeper ones");
    if (PyList_Check(value) || PyTuple_Check(value)) {
      PyObject** const items = PySequence_Fast_ITEMS(value);
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); ++i) look(items[i], depth + 1);
    } else if (PyDict_Check(value)) {
      PyObject* inside = nullptr;
      for (Py_ssize_t at = 0; PyDict_Next(value, &at, nullptr, &inside) != 0;) look(inside, depth + 1);
    } else if (PyAnySet_Check(value)) {
      for (const py::handle inside : py::reinterpret_borrow<py::object>(value)) look(inside.ptr(), depth + 1);
    } else if (is(type, array_)) {
      masked_ = masked_ || type != type_of(array_);
      look_into(py::reinterpret_borrow<py::array>(value), depth);
    } else if (is(type, datetime_) || is(type, duration_)) {
      times_ = true;
    }
  }

  std::pair<bool, bool> found() const { return {times_, masked_}; }

 private:
  static PyTypeObject* type_of(const py::object& type) { return reinterpret_cast<PyTypeObject*>(type.ptr()); }

  static bool is(PyTypeObject* type, const py::object& base) {
    return type == type_of(base) || PyType_IsSubtype(type, type_of(base)) != 0;
  }

  void look_into(const py::array& array, int depth) {
    const char kind = array.dtype().kind();
    times_ = times_ || kind == 'M' || kind == 'm';
    if (kind != 'O') return;
    const py::array packed = py::array::ensure(array, py::array::c_style);
    if (!packed) throw py::error_already_set();
    const auto* const items = static_cast<PyObject* const*>(packed.data());
    for (py::ssize_t i = 0; i < packed.size(); ++i)
      if (items[i] != nullptr) look(items[i], depth + 1);  // NumPy has no pointer where it has None
  }

  py::object datetime_, duration_, array_;
  bool times_ = false, masked_ = false;
};

std::pair<bool, bool> numpy_inside(const py::object& values) {
  NumpyValues inside;
  inside.look(values.ptr(), 0);
  return inside.found();
}

}  // namespace

void bind_objects(py::module_& module) {
  module.def("numpy_inside", &numpy_inside, "values"_a,
             "(whether Python objects hold dates or durations of NumPy, whether they hold arrays of a "
             "subclass, such as masked ones). Raises TypeError for values too deep in each other.");
}

}  // namespace pepnet::python
