#include <new>
#include <stdexcept>

#include "bindings.h"

namespace pepnet::python {

// pybind11's own translation, repeated for this module alone. Translators that are not local are shared by
// all extensions of a process: another one that catches std::exception would turn our TypeError and
// ValueError into its own.
void bind_exceptions(pybind11::module_&) {
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const pybind11::cast_error& error) {
      // A value inside a list, tuple or dict: pybind11 has a RuntimeError for it, arguments themselves are
      // a TypeError.
      pybind11::set_error(PyExc_TypeError, error.what());
    } catch (const pybind11::builtin_exception& error) {
      error.set_error();
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::invalid_argument& error) {
      pybind11::set_error(PyExc_ValueError, error.what());
    } catch (const std::length_error& error) {
      pybind11::set_error(PyExc_ValueError, error.what());
    } catch (const std::out_of_range& error) {
      pybind11::set_error(PyExc_IndexError, error.what());
    } catch (const std::overflow_error& error) {
      pybind11::set_error(PyExc_OverflowError, error.what());
    }
  });
}

}  // namespace pepnet::python
