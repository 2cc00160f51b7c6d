#include "cache/after_fork.h"

#include <pthread.h>

#include <mutex>

namespace pepnet::cache {

struct ForkHandlers {
  std::mutex lock;
  ForkHandler* first = nullptr;

  // Never destroyed: caches may outlive static objects.
  static ForkHandlers& instance() {
    static ForkHandlers* const list = [] {
      auto* made = new ForkHandlers;
      (void)pthread_atfork([] { instance().lock.lock(); }, [] { instance().lock.unlock(); },
                           [] { instance().in_child(); });
      return made;
    }();
    return *list;
  }
  void add(ForkHandler* member) {
    const std::lock_guard guard(lock);
    member->next_ = first;
    if (first != nullptr) first->before_ = member;
    first = member;
  }
  void remove(ForkHandler* member) {
    const std::lock_guard guard(lock);
    (member->before_ != nullptr ? member->before_->next_ : first) = member->next_;
    if (member->next_ != nullptr) member->next_->before_ = member->before_;
  }
  void in_child() {
    lock.unlock();  // taken before the fork, by the thread that is this one
    for (ForkHandler* member = first; member != nullptr; member = member->next_) member->after_fork();
  }
};

ForkHandler::ForkHandler() { ForkHandlers::instance().add(this); }
ForkHandler::~ForkHandler() { ForkHandlers::instance().remove(this); }

}  // namespace pepnet::cache
