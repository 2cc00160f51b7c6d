#include <chrono>
#include <memory>
#include <thread>

#include "arrays.h"
#include "bindings.h"

namespace pepnet::python {

namespace {

// A lock that many may share and one may have alone. What is held is a C++ object: no exception comes between
// taking hold and the object that lets go. All is done with the GIL but for sleeping, and who waits looks
// again.
class Gate {
 public:
  class Shared {
   public:
    explicit Shared(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {
      gate_->wait([&] { return !gate_->alone_ && gate_->waiting_ == 0; });
      ++gate_->sharing_;
    }
    ~Shared() { leave(); }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    void leave() {
      if (gate_ != nullptr) --gate_->sharing_;
      gate_.reset();
    }

   private:
    std::shared_ptr<Gate> gate_;
  };

  void take_alone() {
    struct Waiting {
      explicit Waiting(std::size_t& all) : count(all) { ++count; }
      ~Waiting() { --count; }
      std::size_t& count;
    };
    const Waiting counted(waiting_);
    wait([&] { return !alone_ && sharing_ == 0; });
    alone_ = true;
  }
  void leave() { alone_ = false; }

 private:
  template <class Ready>
  void wait(const Ready& ready) const {
    while (!ready()) {
      {
        const py::gil_scoped_release release;
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
  }

  std::size_t sharing_ = 0, waiting_ = 0;
  bool alone_ = false;
};

}  // namespace

void bind_gate(py::module_& module) {
  py::class_<Gate::Shared>(module, "SharedGate",
                           "A gate that is shared, until this is left or nobody holds it.")
      .def("__enter__", [](const Gate::Shared&) {})
      .def("__exit__", [](Gate::Shared& shared, const py::args&) { shared.leave(); });
  py::class_<Gate, std::shared_ptr<Gate>>(module, "Gate",
                                          "A lock that many may share and one may have alone.")
      .def(py::init<>())
      .def(
          "shared", [](const std::shared_ptr<Gate>& gate) { return std::make_unique<Gate::Shared>(gate); },
          "Waits until nobody has it alone or waits for that. Returns a context manager that holds it "
          "already.")
      .def("take_alone", &Gate::take_alone,
           "Waits until everybody else has left, and holds it until `leave`.")
      .def("leave", &Gate::leave, "Ends what `take_alone` began.");
}

}  // namespace pepnet::python
