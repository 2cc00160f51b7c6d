#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "arrays.h"
#include "cache/flights.h"

// Fetches from the store that are under way. A fetch ends with the call that began it, whatever exception
// leaves that call and at whichever instruction of Python it is raised: what ends it are destructors of C++
// objects, on the stack of `Fetches::ask` or in a `Handed` that a queue holds. Nothing here needs a lock of
// its own: every method runs with the GIL and gives it up only in `wait` and while Python code runs, so that
// no exception comes between two of its steps. Up to Python 3.11 such code also runs where a tuple or a list
// is made: one may be due for garbage collection, and finalizers are anybody's.
namespace pepnet::python {

namespace {

using cache::FlightTable;
using Clock = std::chrono::steady_clock;

class Fetch {
 public:
  Fetch(std::uint64_t its_number, std::uint64_t its_generation, bool again, py::object entered_in,
        py::array wanted)
      : number(its_number),
        generation(its_generation),
        looks_again(again),
        table(std::move(entered_in)),
        keys(std::move(wanted)),
        done_(PyThread_allocate_lock()) {
    if (done_ == nullptr) throw std::bad_alloc();
    PyThread_acquire_lock(done_, WAIT_LOCK);  // held until it is settled: who waits wants it
  }
  ~Fetch() {
    if (!settled_) PyThread_release_lock(done_);
    PyThread_free_lock(done_);
    drop(fetched);
    drop(fault);
  }
  Fetch(const Fetch&) = delete;
  Fetch& operator=(const Fetch&) = delete;

  void settle(py::object rows, py::object error) {
    if (settled_) return;
    fetched = std::move(rows);
    fault = std::move(error);
    settled_ = true;
    PyThread_release_lock(done_);
  }
  void give_up() {
    given_up = !settled_;
    settle(py::none(), py::none());
  }
  bool settled() const { return settled_; }
  // Whether this thread is amid it: in a signal's handler, or in another greenlet, while the store is asked.
  bool is_below() const { return !settled_ && runner == PyThread_get_thread_ident(); }

  // Signals are handled meanwhile, and what their handlers raise comes out of here.
  bool wait(const std::optional<double>& seconds) {
    const bool forever = !seconds.has_value();
    const double most = forever ? 0 : std::min(std::max(*seconds, 0.0), 1e6);
    const auto end =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(most));
    while (!settled_) {
      const auto left = std::chrono::duration_cast<std::chrono::microseconds>(end - Clock::now()).count();
      PyLockStatus status{};
      {
        const ReleasedGil released;
        status = PyThread_acquire_lock_timed(done_, forever ? -1 : std::max<std::int64_t>(left, 0), 1);
        if (status == PY_LOCK_ACQUIRED) PyThread_release_lock(done_);  // for the next who waits
      }
      if (status == PY_LOCK_FAILURE) return settled_;
      if (status == PY_LOCK_INTR && PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    return true;
  }

  const std::uint64_t number;
  const std::uint64_t generation;
  const bool looks_again;
  const py::object table;
  py::array keys;
  py::object fetched = py::none(), fault = py::none(), order = py::none();
  bool given_up = false, handed = false, ended = false;
  unsigned long runner = PyThread_get_thread_ident();  // the thread that asks the store; 0: not known yet

 private:
  PyThread_type_lock done_;
  bool settled_ = false;
};

using Shared = std::shared_ptr<Fetch>;

class Fetches {
 public:
  py::object ask(const py::object& table, const py::array& keys, std::uint64_t since,
                 const py::function& work);

  void end(Fetch& fetch) {
    if (std::exchange(fetch.ended, true)) return;
    if (fetch.generation == generation_) {  // in a forked child those of the parent are not here
      fetch.table.cast<FlightTable&>().end(vector_of<std::uint64_t>("keys", fetch.keys), fetch.number);
      std::erase_if(under_way_, [&](const Shared& other) { return other.get() == &fetch; });
      ++ended_;
    }
    fetch.give_up();
  }

  void reset() {
    ++generation_;
    under_way_.clear();
  }

  std::uint64_t ended() const { return ended_; }
  std::size_t size() const { return under_way_.size(); }

 private:
  std::vector<Shared> under_way_;
  std::uint64_t last_ = 0, ended_ = 0, generation_ = 0;
};

py::array_t<std::int64_t> positions_of(const std::vector<std::uint64_t>& owners, std::uint64_t number) {
  py::array_t<std::int64_t> at(std::ranges::count(owners, number));
  std::int64_t* out = at.mutable_data();
  for (std::size_t i = 0; i < owners.size(); ++i) {
    if (owners[i] == number) *out++ = static_cast<std::int64_t>(i);
  }
  return at;
}

py::object Fetches::ask(const py::object& table, const py::array& keys, std::uint64_t since,
                        const py::function& work) {
  const auto view = vector_of<std::uint64_t>("keys", keys);
  auto& flights = table.cast<FlightTable&>();
  std::vector<std::uint64_t> owners(view.size());
  const Shared fetch = std::make_shared<Fetch>(++last_, generation_, ended_ != since, table, keys);
  under_way_.push_back(fetch);
  bool left_to_another = false;
  const Finally ending{[&] {
    if (!left_to_another) end(*fetch);
  }};
  flights.begin(view, fetch->number, owners.data());
  std::vector<std::uint64_t> numbers = owners;
  std::ranges::sort(numbers);
  numbers.erase(std::ranges::unique(numbers).begin(), numbers.end());
  std::vector<Shared> theirs;  // all of them before anything of Python is made: meanwhile others may end
  for (const std::uint64_t number : numbers) {
    if (number == fetch->number) continue;
    const auto found =
        std::ranges::find(under_way_, number, [](const Shared& other) { return other->number; });
    if (found == under_way_.end()) throw std::logic_error("fetches: an id is of a fetch that is not here");
    const Shared other = *found;
    if (other->is_below()) {  // it cannot go on before this call ends: asked for here too, and kept by that
      std::ranges::replace(owners, number, fetch->number);
    } else {
      theirs.push_back(other);
    }
  }
  const bool ours = std::ranges::find(owners, fetch->number) != owners.end();
  py::list others;
  for (const Shared& other : theirs) {
    others.append(py::make_tuple(other, positions_of(owners, other->number)));
  }
  py::object at = py::none();
  if (ours && !theirs.empty()) {
    at = positions_of(owners, fetch->number);
    fetch->keys = keys[at];
  }
  py::object result = call_python(work, ours ? py::cast(fetch) : py::none(), at, others);
  left_to_another = fetch->handed;
  return result;
}

// A fetch that another thread will run: in a queue, or on its way there.
class Handed {
 public:
  Handed(std::shared_ptr<Fetches> fetches, Shared fetch, py::object work)
      : fetches_(std::move(fetches)), fetch_(std::move(fetch)), work_(std::move(work)) {
    fetch_->handed = true;
    fetch_->runner = 0;
  }
  ~Handed() {
    end();
    python::drop(work_);
  }
  Handed(const Handed&) = delete;
  Handed& operator=(const Handed&) = delete;

  void run() {
    if (fetch_->ended) return;  // who began it was interrupted before it was handed over
    const Finally ending{[&] { end(); }};
    fetch_->runner = PyThread_get_thread_ident();
    (void)call_python(work_, fetch_);
  }
  void end() { fetches_->end(*fetch_); }

 private:
  std::shared_ptr<Fetches> fetches_;
  Shared fetch_;
  py::object work_;
};

}  // namespace

void bind_fetches(py::module_& module) {
  py::class_<Fetch, Shared>(module, "Fetch", "One question to the store, which many calls may wait for.")
      .def_readonly("keys", &Fetch::keys)
      .def_readonly("number", &Fetch::number)
      .def_readonly("looks_again", &Fetch::looks_again,
                    "Whether rows of its keys may have come to the cache since they were missed.")
      .def_readonly("fetched", &Fetch::fetched, "What came, once it is settled; None where nothing did.")
      .def_readonly("fault", &Fetch::fault, "Why nothing came; None where it is given up.")
      .def_readonly("given_up", &Fetch::given_up,
                    "Whether the call that asked ended before there was an answer: ask again.")
      .def_readwrite("order", &Fetch::order, "Of `keys`, for who looks keys up in them.")
      .def_property_readonly("settled", &Fetch::settled)
      .def("settle", &Fetch::settle, "fetched"_a, "fault"_a,
           "Says what came of it, and wakes those who wait. Only the first time counts.")
      .def("wait", &Fetch::wait, "seconds"_a,
           "Returns whether it is settled, for which it waits some seconds, or with None as long as it "
           "takes.");
  py::class_<Handed>(module, "Handed", "A fetch for another thread; it ends when nobody holds this any more.")
      .def("__call__", &Handed::run, "Runs it, unless it has ended.")
      .def("drop", &Handed::end, "Ends it without running it.");
  py::class_<Fetches, std::shared_ptr<Fetches>>(module, "Fetches", "Fetches that are under way.")
      .def(py::init<>())
      .def("ask", &Fetches::ask, "table"_a, "keys"_a, "since"_a, "work"_a,
           "Begins a fetch of uint64 [N] distinct `keys` that nobody fetches yet, and returns what "
           "`work(mine, at, others)` returns: the fetch (None: all keys are others'), int64 where its keys "
           "stand (None: it has all), and (fetch, positions) of others. The fetch ends with the call, also "
           "by an exception, unless it was handed over.")
      .def(
          "hand_over",
          [](const std::shared_ptr<Fetches>& self, const Shared& fetch, py::object work) {
            return std::make_unique<Handed>(self, fetch, std::move(work));
          },
          "fetch"_a, "work"_a, "In `work` of `ask`: a fetch for another thread to run.")
      .def("reset", &Fetches::reset, "In a child process: forgets fetches, whose threads are not here.")
      .def_property_readonly("ended", &Fetches::ended,
                             "How many have ended: to be read before a lookup, and handed to `ask`.")
      .def("__len__", &Fetches::size);
}

}  // namespace pepnet::python
