// The interpreter's lock, let go of for the length of a block.
//
// pybind11's gil_scoped_release takes the lock again with PyEval_RestoreThread. Up to Python 3.13 that ends a
// thread by pthread_exit when the interpreter is being finalized: glibc unwinds the stack, arrives at a
// destructor, which is noexcept, and the process is aborted, because a daemon thread happened to be in here
// when the program ended. Unwinding further would be no better: frames above hold references to Python
// objects, which nobody may drop without the lock. So such a thread stays where it is, as it does from
// Python 3.14 on, until the process is gone.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace pepnet::python {

class ReleasedGil {
 public:
  ReleasedGil() noexcept : finalizing_(is_finalizing()), thread_(PyEval_SaveThread()) {}
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;
  ~ReleasedGil() {
    // Whoever had the lock while the interpreter was being finalized is the thread that finalizes it.
    if (!finalizing_ && is_finalizing()) stay();
    try {
      PyEval_RestoreThread(thread_);
    } catch (const abi::__forced_unwind&) {
      stay();  // finalization began while this thread waited for the lock
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
  [[noreturn]] static void stay() noexcept {
    for (;;) (void)pause();
  }

  const bool finalizing_;
  PyThreadState* const thread_;
};

}  // namespace pepnet::python
