// The process's worker threads: one pool for all engines, so that several engines do not multiply threads.
#pragma once

#include <cstddef>

namespace pepnet {

// Work in stages: every unit of a stage is done before the first unit of the next one begins. Units of one
// stage are independent of each other.
class StagedWork {
 public:
  virtual ~StagedWork() = default;
  virtual std::size_t stages() const noexcept = 0;
  virtual std::size_t units(std::size_t stage) const noexcept = 0;
  // Does units [begin, end) of a stage. `participant` < the count given to `run`: no two threads have the
  // same one at the same time within one `run`.
  virtual void run(std::size_t stage, std::size_t begin, std::size_t end, unsigned participant) noexcept = 0;
};

class ThreadPool {
 public:
  static ThreadPool& instance();

  // Runs `work` on the calling thread and at most `participants` - 1 workers that are idle now; returns when
  // all of it is done. Never waits for a worker to become free or to wake up: a late one joins at the stage
  // that is under way. With `spin`, workers and the caller spin for a bounded time before they sleep.
  void run(StagedWork& work, unsigned participants, bool spin);
};

}  // namespace pepnet
