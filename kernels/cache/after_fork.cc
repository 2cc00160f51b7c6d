#include "cache/after_fork.h"

#include <pthread.h>

#include <mutex>
#include <unordered_set>

namespace pepnet::cache {
namespace {

struct Handlers {
  std::mutex lock;
  std::unordered_set<ForkHandler*> all;
};

// Never destroyed: caches may outlive static objects.
Handlers& handlers() {
  static Handlers* const made = [] {
    (void)pthread_atfork([] { handlers().lock.lock(); }, [] { handlers().lock.unlock(); },
                         [] {
                           handlers().lock.unlock();  // taken before the fork, by the thread that is this one
                           for (ForkHandler* const handler : handlers().all) handler->after_fork();
                         });
    return new Handlers;
  }();
  return *made;
}

}  // namespace

ForkHandler::ForkHandler() {
  const std::lock_guard guard(handlers().lock);
  handlers().all.insert(this);
}
ForkHandler::~ForkHandler() {
  const std::lock_guard guard(handlers().lock);
  handlers().all.erase(this);
}

}  // namespace pepnet::cache
