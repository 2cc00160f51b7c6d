#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "bindings.h"
#include "cache/after_fork.h"

namespace pepnet::python {

namespace {

// A file or directory that is open and locked from `enter` to `leave`. What is held is a C++ object on the
// interpreter's stack: no exception comes between taking the lock and the object that lets go, and none that
// leaves a `with` behind keeps it, although a traceback keeps the frames. A forked child closes its copy, or
// it would hold the lock on: it is of all copies of a descriptor.
class FileLock final : cache::ForkHandler {
 public:
  FileLock(const py::object& path, int flags, bool wait, bool fresh)
      : given_(py::reinterpret_steal<py::object>(PyOS_FSPath(path.ptr()))),
        flags_((flags & ~O_TRUNC) | O_CLOEXEC),
        wait_(wait),
        fresh_(fresh) {
    PyObject* encoded = nullptr;
    if (!given_) throw py::error_already_set();
    if (PyUnicode_FSConverter(given_.ptr(), &encoded) == 0) throw py::error_already_set();
    path_ = PyBytes_AS_STRING(encoded);
    Py_DECREF(encoded);
  }
  ~FileLock() override { leave(); }

  // Opens and locks what has the name then: where it was renamed or removed in between, again.
  int enter() {
    if (descriptor_ >= 0) throw std::invalid_argument("expected a lock that is not held, got one that is");
    for (int tries = 0; tries < kMostTries; ++tries) {
      const bool created = fresh_ && (descriptor_ = ::open(path_.c_str(), flags_ | O_EXCL, 0666)) >= 0;
      if (!created) descriptor_ = ::open(path_.c_str(), flags_, 0666);
      if (descriptor_ < 0) fail(errno);
      const int code = lock();
      if (code != 0) {
        leave();
        if (code == EINTR) throw py::error_already_set();
        fail(code);
      }
      struct stat held{}, named{};
      const auto same = [&] { return held.st_dev == named.st_dev && held.st_ino == named.st_ino; };
      if (::fstat(descriptor_, &held) == 0 && ::lstat(path_.c_str(), &named) == 0 && same()) {
        if (!fresh_ || created || !is_own(held)) return descriptor_;
        const int removed = ::unlink(path_.c_str()) == 0 ? 0 : errno;
        leave();
        if (removed != 0) fail(removed);
        continue;
      }
      if ((flags_ & O_NOFOLLOW) == 0 && ::stat(path_.c_str(), &named) == 0 && same())
        return descriptor_;  // by way of a link
      leave();
    }
    fail(ESTALE);
  }
  void leave() noexcept {
    if (descriptor_ >= 0) (void)::close(descriptor_);
    descriptor_ = -1;
  }
  void after_fork() noexcept override { leave(); }

 private:
  // Of a name under which another file stands after each look: a file system whose numbers of files do not
  // last.
  static constexpr int kMostTries = 1000;

  // A file with this one name, of somebody who is at it no longer. Others are the caller's to refuse.
  static bool is_own(const struct stat& file) { return S_ISREG(file.st_mode) && file.st_nlink == 1; }

  // Returns 0, or the number of the error; EINTR where a handler of a signal has raised.
  int lock() const {
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return 0;
    while (errno == EINTR || (wait_ && errno == EWOULDBLOCK)) {
      int code = 0;
      {
        const ReleasedGil released;
        code = ::flock(descriptor_, LOCK_EX | (wait_ ? 0 : LOCK_NB)) == 0 ? 0 : errno;
      }
      if (code == 0) return 0;
      if (code == EINTR && PyErr_CheckSignals() != 0) return EINTR;
      errno = code;
    }
    return errno;
  }
  [[noreturn]] void fail(int code) const {
    errno = code;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, given_.ptr());
    throw py::error_already_set();
  }

  py::object given_;
  std::string path_;
  int flags_;
  bool wait_;
  bool fresh_;
  int descriptor_ = -1;
};

}  // namespace

void bind_file_lock(py::module_& module) {
  py::class_<FileLock>(module, "FileLock",
                       "A file or directory, opened and locked by flock while a `with` is in it.")
      .def(py::init<const py::object&, int, bool, bool>(), "path"_a, "flags"_a, "wait"_a = true,
           "fresh"_a = false,
           "Opens nothing yet. flags: of os.open. wait: for who has the lock; else that is BlockingIOError. "
           "fresh: with O_CREAT; a file that is there, and that nobody has locked, is removed: the one that "
           "is locked is new.")
      .def("__enter__", &FileLock::enter, "Returns the descriptor.")
      .def("__exit__", [](FileLock& lock, const py::args&) { lock.leave(); });
}

}  // namespace pepnet::python
