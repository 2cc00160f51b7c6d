// The workers, and how a job gets some of them.
//
// Each worker has a mailbox, `assignment`, that names the job it is wanted in. Callers fill a mailbox that is
// empty and empty it when their job is over, whether or not the worker has come; the worker only reads. So a
// caller waits for no worker, and a worker that is late finds either its job or an empty mailbox.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

#include "threads/staged_job.h"
#include "threads/thread_pool.h"
#include "threads/wait.h"

namespace pepnet::threads {

constexpr unsigned kMaxWorkers = ThreadPool::kMaxParticipants - 1;
constexpr unsigned kSlots = 32;  // jobs at once; a further one runs on its caller alone

struct Worker {
  // [generation:32][slot:16][participant:16]; 0 is none, as the caller is participant 0.
  alignas(kApart) std::atomic<std::uint64_t> assignment{0};
  std::atomic<std::uint32_t> asleep{0};  // 1: sleeps on this word, or is about to
};

// What one job at a time uses.
struct Slot {
  StagedJob job;
  alignas(kApart) std::atomic<bool> taken{false};
  std::atomic<bool> spin{false};  // a worker whose job is over may read the next one's: either serves
  unsigned recruited = 0;
  std::array<std::uint16_t, kMaxWorkers> recruits{};  // by participant, from 1 on
  // Recruits that were asleep, woken one by one: by the caller, one before each claim, and by each recruit
  // that comes, two. So the caller spends one system call before it starts to work, and their number doubles
  // with each step.
  alignas(kApart) std::atomic<std::uint32_t> to_wake{0};  // [end:16][next:16]
  std::array<std::atomic<std::uint16_t>, kMaxWorkers> sleeping{};
};

class Pool {
 public:
  constexpr Pool() = default;

  Slot* take_slot() noexcept;  // null: all are in use
  void give_back(Slot& slot) noexcept { slot.taken.store(false, std::memory_order_release); }

  // Returns whether the job had, at some moment, all the workers it asked for.
  bool run(Slot& slot, StagedWork& work, unsigned participants, bool spin) noexcept;

  void count_job(bool was_short) noexcept;
  PoolInfo info() const noexcept;
  void start_over() noexcept;  // in the child of a fork

 private:
  struct Start;
  static void* worker_main(void* start) noexcept;

  void grow(unsigned workers) noexcept;
  bool start_worker(unsigned index) noexcept;
  [[noreturn]] void work_for_ever(unsigned index) noexcept;
  std::uint64_t next_assignment(Worker& worker, std::uint64_t last,
                                std::chrono::nanoseconds patience) noexcept;
  void recruit(Slot& slot, std::uint32_t generation, unsigned wanted) noexcept;
  void dismiss(Slot& slot) noexcept;
  void wake_one(Slot& slot) noexcept;

  // All zero at the start, which keeps it out of the file.
  std::array<Worker, kMaxWorkers> workers_{};
  std::array<Slot, kSlots> slots_{};
  alignas(kApart) std::atomic<unsigned> started_{0};
  std::atomic<unsigned> cpus_{0};  // what cpu_budget says; 0 before the first worker has looked
  std::mutex growing_;
  std::chrono::steady_clock::time_point retry_{};  // guarded by growing_
  alignas(kApart) std::atomic<std::uint64_t> jobs_{0};
  std::atomic<std::uint64_t> short_{0};
};

}  // namespace pepnet::threads
