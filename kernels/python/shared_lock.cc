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
  class Shared {
   public:
    explicit Shared(std::shared_ptr<SharedLock> lock)
        : lock_(std::move(lock)), thread_(PyThread_get_thread_ident()) {
      lock_->wait([&] { return lock_->depth_ == 0 && lock_->waiting_ == 0; }, py::none());
      lock_->sharing_.push_back(thread_);
    }
    ~Shared() { leave(); }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    void leave() {
      if (lock_ == nullptr) return;
      auto& sharing = lock_->sharing_;
      sharing.erase(std::find(sharing.begin(), sharing.end(), thread_));
      lock_.reset();
    }

   private:
    std::shared_ptr<SharedLock> lock_;
    const unsigned long thread_;
  };

  class Alone {
   public:
    Alone(std::shared_ptr<SharedLock> lock, py::object unless)
        : lock_(std::move(lock)), unless_(std::move(unless)) {}
    ~Alone() {
      while (held_ != 0) leave();
    }
    Alone(const Alone&) = delete;
    Alone& operator=(const Alone&) = delete;
    bool enter() {
      if (!lock_->take_alone(unless_)) return false;
      ++held_;
      return true;
    }
    void leave() {
      if (held_ == 0) return;
      --held_;
      --lock_->depth_;
    }

   private:
    std::shared_ptr<SharedLock> lock_;
    py::object unless_;
    std::size_t held_ = 0;
  };

  // Whether the thread that asks is one of those that share it.
  bool is_sharing() const {
    return std::find(sharing_.begin(), sharing_.end(), PyThread_get_thread_ident()) != sharing_.end();
  }

 private:
  bool take_alone(const py::object& unless) {
    struct Waiting {
      explicit Waiting(std::size_t& all) : count(all) { ++count; }
      ~Waiting() { --count; }
      std::size_t& count;
    };
    const unsigned long thread = PyThread_get_thread_ident();
    if (depth_ == 0 || owner_ != thread) {
      const Waiting counted(waiting_);
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
  py::class_<SharedLock::Shared>(module, "SharedHold",
                                 "A lock that is shared, until this is left or nobody holds it.")
      .def("__enter__", [](const SharedLock::Shared&) {})
      .def("__exit__", [](SharedLock::Shared& shared, const py::args&) { shared.leave(); });
  py::class_<SharedLock::Alone>(
      module, "ExclusiveHold",
      "A lock that one thread has from when it enters, until it is left or nobody holds it.")
      .def("__enter__", [](SharedLock::Alone& alone) { return alone.enter(); })
      .def("__exit__", [](SharedLock::Alone& alone, const py::args&) { alone.leave(); });
  py::class_<SharedLock, std::shared_ptr<SharedLock>>(module, "SharedLock",
                                                      "A lock that many may share and one may have alone.")
      .def(py::init<>())
      .def(
          "shared",
          [](const std::shared_ptr<SharedLock>& lock) { return std::make_unique<SharedLock::Shared>(lock); },
          "Waits until nobody has it alone or waits for that. Returns a context manager that holds it "
          "already. Who shares it must not ask again.")
      .def(
          "alone",
          [](const std::shared_ptr<SharedLock>& lock, py::object unless) {
            return std::make_unique<SharedLock::Alone>(lock, std::move(unless));
          },
          "unless"_a = py::none(),
          "Returns a context manager that waits until everybody else has left, and is True then. The thread "
          "may enter again. With `unless`, which is asked while it waits, it is False when that says True, "
          "and holds nothing.")
      .def_property_readonly("is_sharing", &SharedLock::is_sharing, "Whether this thread shares it.");
}

}  // namespace pepnet::python
