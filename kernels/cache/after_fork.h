// Objects that must be repaired in the child of a fork: it has the locks and marks of other threads, but not
// the threads.
#pragma once

#include <pthread.h>

#include <mutex>
#include <unordered_set>

namespace pepnet::cache {

// Base of every object with locks or marks that another thread may hold at the moment of a fork.
class ForkHandler {
 public:
  ForkHandler(const ForkHandler&) = delete;
  ForkHandler& operator=(const ForkHandler&) = delete;
  // In the child, before anything else runs there: its only thread.
  virtual void after_fork() noexcept = 0;

 protected:
  ForkHandler() {  // throws std::bad_alloc
    const std::lock_guard guard(living().lock);
    living().all.insert(this);
  }
  virtual ~ForkHandler() {
    const std::lock_guard guard(living().lock);
    living().all.erase(this);
  }

 private:
  struct Living {
    std::mutex lock;
    std::unordered_set<ForkHandler*> all;
  };

  // Never destroyed: caches may outlive static objects.
  static Living& living() {
    static Living* const made = [] {
      (void)pthread_atfork([] { living().lock.lock(); }, [] { living().lock.unlock(); },
                           [] {
                             living().lock.unlock();  // taken before the fork, by the thread that is this one
                             for (ForkHandler* const handler : living().all) handler->after_fork();
                           });
      return new Living;
    }();
    return *made;
  }
};

}  // namespace pepnet::cache
