// The process's worker threads: one pool for all engines, so that several engines do not multiply threads.
//
// Each worker has a mailbox, `assignment`, that names the job it is wanted in. Callers fill a mailbox that is
// empty and empty it when their job is over, whether or not the worker has come; the worker only reads. So a
// caller waits for no worker, and a worker that is late finds either its job or an empty mailbox.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "threads/staged_job.h"
#include "threads/wait.h"

namespace pepnet {

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

  unsigned workers() const noexcept { return started_.load(std::memory_order_acquire); }  // started so far

 private:
  static constexpr unsigned kMaxWorkers = kMaxParticipants - 1;
  static constexpr unsigned kSlots = 32;  // jobs at once; a further one runs on its caller alone

  struct Worker {
    // [generation:32][slot:16][participant:16]; 0 is none, as the caller is participant 0.
    alignas(threads::kApart) std::atomic<std::uint64_t> assignment{0};
    std::atomic<std::uint32_t> asleep{0};  // 1: sleeps on this word, or is about to
  };

  // What one job at a time uses.
  struct Slot {
    threads::StagedJob job;
    alignas(threads::kApart) std::atomic<bool> taken{false};
    std::atomic<bool> spin{false};  // a worker whose job is over may read the next one's: either serves
    unsigned recruited = 0;
    std::array<std::uint16_t, kMaxWorkers> recruits{};  // by participant, from 1 on
    // Recruits that were asleep, woken one by one: by the caller, one before each claim, and by each recruit
    // that comes, two. So the caller spends one system call before it starts to work, and their number
    // doubles with each step.
    alignas(threads::kApart) std::atomic<std::uint32_t> to_wake{0};  // [end:16][next:16]
    std::array<std::atomic<std::uint16_t>, kMaxWorkers> sleeping{};
  };

  constexpr ThreadPool() = default;
  static void start_over() noexcept;  // in the child of a fork
  static const int kAtFork;
  static void* worker_main(void* index) noexcept;

  Slot* take_slot() noexcept;  // null: all are in use
  void share(Slot& slot, StagedWork& work, unsigned participants, bool spin) noexcept;
  void recruit(Slot& slot, std::uint32_t generation, unsigned wanted) noexcept;
  void wake_one(Slot& slot) noexcept;
  void grow(unsigned workers) noexcept;
  [[noreturn]] void work_for_ever(unsigned index) noexcept;
  std::uint64_t next_assignment(Worker& worker, std::uint64_t last,
                                std::chrono::nanoseconds patience) noexcept;

  // All zero at the start, which keeps it out of the file.
  std::array<Worker, kMaxWorkers> workers_{};
  std::array<Slot, kSlots> slots_{};
  alignas(threads::kApart) std::atomic<unsigned> started_{0};
  std::atomic<unsigned> cpus_{0};  // what cpu_budget says; 0 before the first worker has looked
  std::mutex growing_;
  std::chrono::steady_clock::time_point retry_{};  // guarded by growing_
};

}  // namespace pepnet
