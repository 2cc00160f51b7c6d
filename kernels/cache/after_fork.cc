#include "cache/after_fork.h"

#include <pthread.h>

#include <mutex>

namespace pepnet::cache {

struct ForkedList {
  std::mutex lock;
  Forked* first = nullptr;

  // Never destroyed: caches may outlive static objects.
  static ForkedList& instance() {
    static ForkedList* const list = [] {
      auto* made = new ForkedList;
      (void)pthread_atfork([] { instance().lock.lock(); }, [] { instance().lock.unlock(); },
                           [] { instance().in_child(); });
      return made;
    }();
    return *list;
  }
  void add(Forked* member) {
    const std::lock_guard guard(lock);
    member->next_ = first;
    if (first != nullptr) first->before_ = member;
    first = member;
  }
  void remove(Forked* member) {
    const std::lock_guard guard(lock);
    (member->before_ != nullptr ? member->before_->next_ : first) = member->next_;
    if (member->next_ != nullptr) member->next_->before_ = member->before_;
  }
  void in_child() {
    lock.unlock();  // taken before the fork, by the thread that is this one
    for (Forked* member = first; member != nullptr; member = member->next_) member->after_fork();
  }
};

Forked::Forked() { ForkedList::instance().add(this); }
Forked::~Forked() { ForkedList::instance().remove(this); }

}  // namespace pepnet::cache
