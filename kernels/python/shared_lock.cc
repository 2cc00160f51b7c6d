#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "arrays.h"

namespace pepnet::python {

namespace {

// A lock that many may share and one thread may have alone, and again. What is held is a C++ object: no
// exception comes between taking hold and the object that lets go, and none that leaves a `with` behind keeps
// it, although a traceback keeps the frames. All is done with the GIL but for sleeping, and who waits looks
// again.
class SharedLock {
 public:
  class Hold {
   public:
    // Shares it from here on; or has it alone from when it enters.
    Hold(std::shared_ptr<SharedLock> lock, bool alone, py::object unless)
        : lock_(std::move(lock)),
          alone_(alone),
          unless_(std::move(unless)),
          thread_(PyThread_get_thread_ident()) {
      if (alone_) return;
      lock_->wait([&] { return lock_->depth_ == 0 && lock_->waiting_ == 0; }, unless_);
      lock_->sharing_.push_back(thread_);
      held_ = 1;
    }
    ~Hold() {
      while (held_ != 0) leave();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    bool enter() {
      if (!alone_) return true;
      if (!lock_->take_alone(unless_)) return false;
      ++held_;
      return true;
    }
    void leave() {
      if (held_ == 0) return;
      --held_;
      if (alone_) {
        --lock_->depth_;
      } else {
        lock_->sharing_.erase(std::ranges::find(lock_->sharing_, thread_));
      }
    }

   private:
    const std::shared_ptr<SharedLock> lock_;
    const bool alone_;
    const py::object unless_;
    const unsigned long thread_;  // that made it
    std::size_t held_ = 0;
  };

  // Whether the thread that asks is one of those that share it.
  bool is_sharing() const {
    return std::ranges::find(sharing_, PyThread_get_thread_ident()) != sharing_.end();
  }

 private:
  bool take_alone(const py::object& unless) {
    const unsigned long thread = PyThread_get_thread_ident();
    if (depth_ == 0 || owner_ != thread) {
      ++waiting_;
      const Finally counted{[&] { --waiting_; }};
      if (!wait([&] { return depth_ == 0 && sharing_.empty(); }, unless)) return false;
      owner_ = thread;
    }
    ++depth_;
    return true;
  }

  template <class Ready>
  static bool wait(const Ready& ready, const py::object& unless) {
    auto nap = std::chrono::microseconds(200);
    while (!ready()) {
      if (!unless.is_none() && py::bool_(call_python(unless))) return false;
      {
        const ReleasedGil released;
        std::this_thread::sleep_for(nap);
      }
      nap = std::min(2 * nap, std::chrono::microseconds(12'800));
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    return true;
  }

  std::vector<unsigned long> sharing_;  // threads
  std::size_t waiting_ = 0, depth_ = 0;
  unsigned long owner_ = 0;  // the thread that has it alone, while depth_ is not 0
};

}  // namespace

void bind_shared_lock(py::module_& module) {
  using Hold = SharedLock::Hold;
  py::class_<Hold>(module, "Hold", "A lock that is held, until this is left or nobody holds it.")
      .def("__enter__", [](Hold& hold) { return hold.enter(); })  // a reference: None is refused
      .def("__exit__", [](Hold& hold, const py::args&) { hold.leave(); });
  using Lock = std::shared_ptr<SharedLock>;
  py::class_<SharedLock, Lock>(module, "SharedLock", "A lock that many may share and one may have alone.")
      .def(py::init<>())
      .def(
          "shared", [](const Lock& lock) { return std::make_unique<Hold>(lock, false, py::none()); },
          "Waits until nobody has it alone or waits for that. Returns a context manager that holds it "
          "already. Who shares it must not ask again.")
      .def(
          "alone",
          [](const Lock& lock, py::object unless) {
            return std::make_unique<Hold>(lock, true, std::move(unless));
          },
          "unless"_a = py::none(),
          "Returns a context manager that waits until everybody else has left, and is True then. The thread "
          "may enter again. With `unless`, which is asked while it waits, it is False when that says True, "
          "and holds nothing.")
      .def_property_readonly("is_sharing", &SharedLock::is_sharing, "Whether this thread shares it.");
}

}  // namespace pepnet::python
