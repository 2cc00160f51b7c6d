#include "threads/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>

#include "cpu/cpu_budget.h"

namespace pepnet {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using threads::futex_wait;
using threads::futex_wake;
using threads::spin_until;

// Between jobs, with `spin`: longer than a caller in a loop takes from one job to the next.
constexpr nanoseconds kSpin = microseconds(1000);
// Between the stages of a job without it: longer than two participants of one stage lie apart.
constexpr nanoseconds kStage = microseconds(20);
// With more participants than CPUs whoever spins may hold the CPU of the one it waits for.
constexpr nanoseconds kCrowded = microseconds(2);
constexpr nanoseconds kSleepAtOnce = nanoseconds(0);

std::uint64_t assignment_of(std::uint32_t generation, std::size_t slot, unsigned participant) {
  return std::uint64_t{generation} << 32 | std::uint64_t{slot} << 16 | participant;
}

// A worker serves callers of all threads, but inherits the mask of the one that happened to come first. If
// that one is pinned, to one CPU say, all workers would crowd there. They get the CPUs of the process's main
// thread (what a cpuset, a container or taskset gave it) and those of the creator: a main thread that has
// pinned itself does not drag them along either. Where the masks cannot be read or set, the inherited one
// stays.
void widen_mask() noexcept {
  constexpr std::size_t kCpus = 16'384;  // more than any kernel is built for
  constexpr std::size_t kBytes = kCpus / 8;
  cpu_set_t own[kBytes / sizeof(cpu_set_t)] = {};
  cpu_set_t main[kBytes / sizeof(cpu_set_t)] = {};
  if (sched_getaffinity(0, kBytes, own) != 0 || sched_getaffinity(getpid(), kBytes, main) != 0) return;
  CPU_OR_S(kBytes, own, own, main);
  (void)sched_setaffinity(0, kBytes, own);
}

unsigned cpus_to_use() noexcept {
  try {
    return static_cast<unsigned>(cpu_budget().threads);
  } catch (const std::exception&) {
    return 1;  // No memory to find out: spin as little as with one CPU, which is slower and never wrong.
  }
}

// A worker whose signals are blocked: they are for the threads of the program. False: the system has no
// thread left.
bool start_detached(void* (*main)(void*), unsigned index) noexcept {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // A new thread inherits the mask, so that no signal can reach it before it has blocked them itself.
  sigset_t all, before;
  sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  void* const argument = reinterpret_cast<void*>(std::uintptr_t{index});
  const bool started = pthread_create(&thread, &attributes, main, argument) == 0;
  (void)pthread_sigmask(SIG_SETMASK, &before, nullptr);
  (void)pthread_attr_destroy(&attributes);
  return started;
}

void run_alone(StagedWork& work) noexcept {
  const std::size_t stages = work.stages();
  for (std::size_t stage = 0; stage < stages; ++stage) {
    const std::size_t units = work.units(stage);
    if (units != 0) work.run(stage, 0, units, 0);
  }
}

}  // namespace

ThreadPool& ThreadPool::instance() noexcept {
  // Never destroyed, and all of it constant at load: workers may run on while the process's other statics go,
  // and a forked child can put it back to what it was at the start.
  static constinit ThreadPool pool;
  return pool;
}

// The child of a fork has none of the workers, and whatever the others were doing stands still half done,
// locks included. Nothing of it is touched: the pool starts anew.
void ThreadPool::start_over() noexcept {
  ThreadPool& pool = instance();
  const auto taken = [](const Slot& slot) { return slot.taken.load(std::memory_order_relaxed); };
  // Where none of it was used its pages stay untouched.
  const bool refused_threads = pool.retry_ != steady_clock::time_point{};
  if (pool.workers() == 0 && !refused_threads && std::ranges::none_of(pool.slots_, taken)) return;
  std::destroy_at(&pool);
  new (&pool) ThreadPool;
}

void ThreadPool::run(StagedWork& work, unsigned participants, bool spin) noexcept {
  const unsigned wanted = std::min(participants, kMaxParticipants);
  Slot* const slot = wanted > 1 ? take_slot() : nullptr;
  if (slot == nullptr) {
    run_alone(work);
  } else {
    share(*slot, work, wanted, spin);
    slot->taken.store(false, std::memory_order_release);
  }
}

ThreadPool::Slot* ThreadPool::take_slot() noexcept {
  // A thread comes back to the slot it had: its lines are in that thread's cache.
  static thread_local unsigned last = 0;
  for (unsigned i = 0; i < kSlots; ++i) {
    Slot& slot = slots_[(last + i) % kSlots];
    if (slot.taken.load(std::memory_order_relaxed)) continue;
    if (slot.taken.exchange(true, std::memory_order_acquire)) continue;
    last = (last + i) % kSlots;
    return &slot;
  }
  return nullptr;
}

void ThreadPool::share(Slot& slot, StagedWork& work, unsigned participants, bool spin) noexcept {
  const unsigned wanted = participants - 1;
  if (started_.load(std::memory_order_acquire) < wanted) grow(wanted);
  const unsigned cpus = cpus_.load(std::memory_order_relaxed);
  const bool crowded = cpus != 0 && participants > cpus;
  slot.spin.store(spin, std::memory_order_relaxed);
  if (!slot.job.open(work, participants, crowded ? kCrowded : spin ? kSpin : kStage)) return;
  const std::uint32_t generation = slot.job.generation();
  slot.recruited = 0;
  slot.to_wake.store(0, std::memory_order_relaxed);
  slot.job.participate(generation, 0, [&] {
    if (slot.recruited < wanted) recruit(slot, generation, wanted);
    wake_one(slot);
  });
  // Relaxed: a worker that still sees the assignment finds the job's generation gone.
  for (unsigned i = 0; i < slot.recruited; ++i)
    workers_[slot.recruits[i]].assignment.store(0, std::memory_order_relaxed);
}

void ThreadPool::recruit(Slot& slot, std::uint32_t generation, unsigned wanted) noexcept {
  const auto number = static_cast<std::size_t>(&slot - slots_.data());
  const unsigned started = started_.load(std::memory_order_acquire);
  for (unsigned i = 0; i < started && slot.recruited < wanted; ++i) {
    Worker& worker = workers_[i];
    std::uint64_t none = 0;
    if (worker.assignment.load(std::memory_order_relaxed) != none) continue;
    // Sequentially consistent, as are the other three accesses in `next_assignment`: either the worker sees
    // the assignment before it sleeps, or it is seen to be asleep here.
    const std::uint64_t assignment = assignment_of(generation, number, slot.recruited + 1);
    if (!worker.assignment.compare_exchange_strong(none, assignment, std::memory_order_seq_cst)) continue;
    slot.recruits[slot.recruited++] = static_cast<std::uint16_t>(i);
    if (worker.asleep.load(std::memory_order_seq_cst) == 0) continue;
    const std::uint32_t end = slot.to_wake.load(std::memory_order_relaxed) >> 16;
    slot.sleeping[end].store(static_cast<std::uint16_t>(i), std::memory_order_relaxed);
    slot.to_wake.fetch_add(1U << 16, std::memory_order_release);  // publishes the line above
  }
}

void ThreadPool::wake_one(Slot& slot) noexcept {
  // A worker that comes late may wake one of the slot's next job: it takes that duty over, and none is lost.
  std::uint32_t seen = slot.to_wake.load(std::memory_order_relaxed);
  do {
    if ((seen & 0xFFFF) >= seen >> 16) return;
  } while (!slot.to_wake.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire));
  Worker& worker = workers_[slot.sleeping[seen & 0xFFFF].load(std::memory_order_relaxed)];
  if (worker.asleep.exchange(0, std::memory_order_relaxed) != 0) futex_wake(worker.asleep, 1);
}

std::uint64_t ThreadPool::next_assignment(Worker& worker, std::uint64_t last, nanoseconds patience) noexcept {
  std::uint64_t now = 0;
  const auto assigned = [&](std::memory_order order) {
    now = worker.assignment.load(order);  // acquires the opening of the job
    return now != 0 && now != last;       // `last` until its caller has emptied the mailbox
  };
  if (spin_until([&] { return assigned(std::memory_order_acquire); }, patience)) return now;
  for (;;) {
    worker.asleep.store(1, std::memory_order_seq_cst);
    if (assigned(std::memory_order_seq_cst)) {
      worker.asleep.store(0, std::memory_order_relaxed);
      return now;
    }
    futex_wait(worker.asleep, 1);
  }
}

void ThreadPool::work_for_ever(unsigned index) noexcept {
  Worker& worker = workers_[index];
  std::uint64_t assignment = 0;
  nanoseconds patience = kSpin;
  for (;;) {
    assignment = next_assignment(worker, assignment, patience);
    Slot& slot = slots_[assignment >> 16 & 0xFFFF];
    wake_one(slot);
    wake_one(slot);
    slot.job.participate(static_cast<std::uint32_t>(assignment >> 32), assignment & 0xFFFF, [] {});
    const bool room =
        index + 2 <= cpus_.load(std::memory_order_relaxed);  // beside a caller and earlier workers
    patience = slot.spin.load(std::memory_order_relaxed) && room ? kSpin : kSleepAtOnce;
  }
}

void* ThreadPool::worker_main(void* argument) noexcept {
  const auto index = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(argument));
  char name[24];  // of which the kernel takes 15 characters
  std::snprintf(name, sizeof name, "pepnet-%u", index + 1);
  (void)pthread_setname_np(pthread_self(), name);
  widen_mask();
  ThreadPool& pool = instance();
  // One look serves all, and it is not the first job's caller that waits for it.
  if (index == 0) pool.cpus_.store(cpus_to_use(), std::memory_order_relaxed);
  pool.work_for_ever(index);
}

void ThreadPool::grow(unsigned workers) noexcept {
  const std::unique_lock lock(growing_, std::try_to_lock);
  if (!lock) return;  // Another caller is starting some: this job takes those that are there.
  unsigned started = started_.load(std::memory_order_relaxed);
  if (started >= workers || steady_clock::now() < retry_) return;
  while (started < workers && start_detached(&worker_main, started))
    started_.store(++started, std::memory_order_release);
  // No threads or no memory to be had: not worth a system call in every job to come.
  if (started < workers) retry_ = steady_clock::now() + std::chrono::seconds(1);
}

// Registered at load, before any thread can fork in between.
[[maybe_unused]] const int ThreadPool::kAtFork = pthread_atfork(nullptr, nullptr, &ThreadPool::start_over);

}  // namespace pepnet
