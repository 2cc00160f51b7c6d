#include <new>

#include "bindings.h"

namespace pepnet::python {

namespace {

// pybind11's own translation, repeated for this module alone. Translators that are not local are shared by
// all extensions of a process: another one that catches std::exception would turn our TypeError and
// ValueError into its own.
void translate_exceptions() {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const py::cast_error& error) {
      // A value inside a list, tuple or dict: pybind11 has a RuntimeError for it, arguments themselves are
      // a TypeError.
      py::set_error(PyExc_TypeError, error.what());
    } catch (const py::builtin_exception& error) {
      error.set_error();
    } catch (const BackendError& error) {
      py::set_error(py::module_::import("pepnet_infer.errors").attr("BackendError"), error.what());
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::invalid_argument& error) {
      py::set_error(PyExc_ValueError, error.what());
    } catch (const std::length_error& error) {
      py::set_error(PyExc_ValueError, error.what());
    } catch (const std::out_of_range& error) {
      py::set_error(PyExc_IndexError, error.what());
    } catch (const std::overflow_error& error) {
      py::set_error(PyExc_OverflowError, error.what());
    }
  });
}

}  // namespace

}  // namespace pepnet::python

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "Compiled parts of pepnet_infer. Arrays are checked, never converted; the GIL is released.";
  pepnet::python::translate_exceptions();
#define PEPNET_BIND(name) pepnet::python::bind_##name(module);
  PEPNET_BINDINGS(PEPNET_BIND)
#undef PEPNET_BIND
}
