// A process forked from one whose other threads were at work has their marks, but not the threads.
#pragma once

namespace pepnet::cache {

// Whoever has locks or marks that other threads leave behind.
class Forked {
 public:
  Forked(const Forked&) = delete;
  Forked& operator=(const Forked&) = delete;
  // In the child, before anything else runs there: its only thread.
  virtual void after_fork() noexcept = 0;

 protected:
  Forked();
  virtual ~Forked();

 private:
  friend struct ForkedList;
  Forked* before_ = nullptr;
  Forked* next_ = nullptr;
};

}  // namespace pepnet::cache
