// The process's worker threads: one pool for all engines, so that several engines do not multiply threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pepnet {

// Work in stages: every unit of a stage is done before the first unit of the next one begins. Units of one
// stage are independent of each other. All three may be called from any participant's thread.
class StagedWork {
 public:
  virtual ~StagedWork() = default;
  virtual std::size_t stages() const noexcept = 0;
  // Called once a stage, when the one before is done. None is fine: the stage is skipped.
  virtual std::size_t units(std::size_t stage) const noexcept = 0;
  // Does units [begin, end) of a stage. `participant` < the count given to `run`: no two threads have the
  // same one at the same time within one `run`.
  virtual void run(std::size_t stage, std::size_t begin, std::size_t end, unsigned participant) noexcept = 0;
};

struct PoolInfo {
  unsigned workers;          // threads started
  unsigned idle;             // of these, in no job now
  std::uint64_t jobs;        // calls of `run`
  std::uint64_t short_jobs;  // of these, the ones that never had all the workers they asked for
};

class ThreadPool {
 public:
  static constexpr unsigned kMaxParticipants = 1024;  // a job has no more, whatever it asks for

  static ThreadPool& instance() noexcept;

  // Runs `work` on the calling thread, which is participant 0, and on at most `participants` - 1 workers that
  // are idle or become so while it runs; returns when all of it is done. Never waits for a worker to become
  // free or to wake up: a late one joins at the stage that is under way. Workers are started when first asked
  // for: as many as the widest job has asked for, whatever the number of callers and of CPUs. Whoever has no
  // number from the user takes cpu_budget().threads. With `spin`, workers and the caller spin for a bounded
  // time before they sleep. A process forked from this one starts with no workers, and its first job starts
  // its own.
  void run(StagedWork& work, unsigned participants, bool spin) noexcept;

  // Counts at one moment; other threads may be changing them.
  PoolInfo info() const noexcept;

 private:
  ThreadPool() = default;
};

}  // namespace pepnet
