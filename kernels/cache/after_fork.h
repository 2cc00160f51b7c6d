// Objects that must be repaired in the child of a fork: it has the locks and marks of other threads, but not
// the threads.
#pragma once

namespace pepnet::cache {

// Base of every object with locks or marks that another thread may hold at the moment of a fork.
class ForkHandler {
 public:
  ForkHandler(const ForkHandler&) = delete;
  ForkHandler& operator=(const ForkHandler&) = delete;
  // In the child, before anything else runs there: its only thread.
  virtual void after_fork() noexcept = 0;

 protected:
  ForkHandler();  // throws std::bad_alloc
  virtual ~ForkHandler();
};

}  // namespace pepnet::cache
