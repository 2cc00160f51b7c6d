#include <algorithm>
#include <memory>

#include "arrays.h"

namespace pepnet::python {

namespace {

// Which object new calls get, and which earlier ones are still in use. A call's hold on one is a C++ object
// on the stack around the call, so that no exception leaves it behind: a pin that stays would keep the rows
// of all later versions from going down to the cache. Every step is made with the GIL, and none gives it up.
class Pins {
 public:
  struct Pin {
    Pin(py::object given, std::uint64_t its_number) : object(std::move(given)), number(its_number) {}
    ~Pin() { drop(object); }
    Pin(const Pin&) = delete;
    Pin& operator=(const Pin&) = delete;
    py::object object;
    std::uint64_t number;
    std::size_t calls = 0;
  };

  explicit Pins(py::object first) : now_(std::make_shared<Pin>(std::move(first), 0)) {}

  py::object use(const py::function& work, const py::args& args) {
    const std::shared_ptr<Pin> pin = now_;
    ++pin->calls;
    const Finally used{[&] {
      if (--pin->calls == 0) std::erase(before_, pin);
    }};
    py::tuple given(args.size() + 1);
    given[0] = pin->object;
    for (std::size_t i = 0; i < args.size(); ++i) given[i + 1] = args[i];
    return call_python_with(work, given);
  }

  std::uint64_t put(py::object object, bool same) {
    auto next = std::make_shared<Pin>(std::move(object), now_->number + (same ? 0 : 1));
    if (now_->calls != 0) before_.push_back(now_);
    now_ = std::move(next);
    return now_->number;
  }

  std::uint64_t oldest() const {
    std::uint64_t number = now_->number;
    for (const auto& pin : before_) number = std::min(number, pin->number);
    return number;
  }

  void reset() {
    before_.clear();
    now_ = std::make_shared<Pin>(now_->object, now_->number);
  }

  py::object now() const { return now_->object; }
  std::uint64_t number() const { return now_->number; }
  std::size_t calls() const {
    std::size_t calls = now_->calls;
    for (const auto& pin : before_) calls += pin->calls;
    return calls;
  }

 private:
  std::shared_ptr<Pin> now_;
  std::vector<std::shared_ptr<Pin>> before_;  // those that calls use
};

}  // namespace

void bind_pins(py::module_& module) {
  py::class_<Pins>(module, "Pins", "The object that new calls get, and earlier ones that calls still use.")
      .def(py::init<py::object>(), "first"_a)
      .def("use", &Pins::use, "work"_a,
           "Returns `work(object, *args)` with the newest, which counts as in use until that has returned "
           "or raised.")
      .def("put", &Pins::put, "object"_a, "same"_a = false,
           "Gives another one to calls that begin from here on. Returns its number: with `same` that of the "
           "one before.")
      .def("oldest", &Pins::oldest, "Returns the lowest number that a call uses, or else the newest.")
      .def("reset", &Pins::reset, "In a child process: calls under way are the parent's.")
      .def_property_readonly("now", &Pins::now)
      .def_property_readonly("number", &Pins::number)
      .def_property_readonly("calls", &Pins::calls, "How many calls are under way.");
}

}  // namespace pepnet::python
