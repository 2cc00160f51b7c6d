// Where a thread may wait for the interpreter's lock with C++ on its stack: after a block without the lock,
// and in Python code that is called from here.
//
// Up to Python 3.13 a thread that takes the lock while the interpreter is being finalized is ended by
// pthread_exit. glibc unwinds the stack, arrives at a destructor, which is noexcept, and the process is
// aborted, because a daemon thread happened to be in here when the program ended. Unwinding further would be
// no better: frames above hold references to Python objects, which nobody may drop without the lock. So such
// a thread stays where it is, as it does from Python 3.14 on, until the process is gone.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <utility>

namespace pepnet::python {

[[noreturn]] inline void stay_for_ever() noexcept {
  for (;;) (void)pause();
}

// Calls a Python function. The frame of C++ that is nearest to the interpreter's is this one, so that none of
// the others is unwound.
inline pybind11::object call_python_with(const pybind11::handle& function, const pybind11::tuple& arguments) {
  PyObject* result = nullptr;
  try {
    result = PyObject_CallObject(function.ptr(), arguments.ptr());
  } catch (const abi::__forced_unwind&) {
    stay_for_ever();
  }
  if (result == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

template <class... Arguments>
pybind11::object call_python(const pybind11::handle& function, Arguments&&... arguments) {
  return call_python_with(function, pybind11::make_tuple(std::forward<Arguments>(arguments)...));
}

// Lets go of a Python object that C++ held. Its finalizers may take the lock anew, as those do that close a
// file: in a destructor of pybind11's, which is noexcept, the thread could not be ended there.
inline void drop(pybind11::object& held) noexcept {
  PyObject* const object = held.release().ptr();
  try {
    Py_XDECREF(object);
  } catch (const abi::__forced_unwind&) {
    stay_for_ever();
  }
}

// The lock, let go of for the length of a block; in place of pybind11's gil_scoped_release.
class ReleasedGil {
 public:
  ReleasedGil() noexcept : finalizing_(is_finalizing()), thread_(PyEval_SaveThread()) {}
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;
  ~ReleasedGil() {
    // Whoever had the lock while the interpreter was being finalized is the thread that finalizes it.
    if (!finalizing_ && is_finalizing()) stay_for_ever();
    try {
      PyEval_RestoreThread(thread_);
    } catch (const abi::__forced_unwind&) {
      stay_for_ever();  // finalization began while this thread waited for the lock
    }
  }

 private:
  static bool is_finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() != 0 || Py_IsInitialized() == 0;
#else
    return _Py_IsFinalizing() != 0 || Py_IsInitialized() == 0;
#endif
  }

  const bool finalizing_;
  PyThreadState* const thread_;
};

}  // namespace pepnet::python
