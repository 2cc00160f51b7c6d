#include "threads/workers.h"

#include <memory>
#include <new>

#include "threads/worker_thread.h"

namespace pepnet::threads {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

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

}  // namespace

Slot* Pool::take_slot() noexcept {
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

bool Pool::run(Slot& slot, StagedWork& work, unsigned participants, bool spin) noexcept {
  const unsigned wanted = participants - 1;
  if (started_.load(std::memory_order_acquire) < wanted) grow(wanted);
  const unsigned cpus = cpus_.load(std::memory_order_relaxed);
  const bool crowded = cpus != 0 && participants > cpus;
  slot.spin.store(spin, std::memory_order_relaxed);
  if (!slot.job.open(work, participants, crowded ? kCrowded : spin ? kSpin : kStage)) return true;
  const std::uint32_t generation = slot.job.generation();
  slot.recruited = 0;
  slot.to_wake.store(0, std::memory_order_relaxed);
  slot.job.participate(generation, 0, [&] {
    if (slot.recruited < wanted) recruit(slot, generation, wanted);
    wake_one(slot);
  });
  const bool served = slot.recruited == wanted;
  dismiss(slot);
  return served;
}

void Pool::recruit(Slot& slot, std::uint32_t generation, unsigned wanted) noexcept {
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

void Pool::dismiss(Slot& slot) noexcept {
  // Relaxed: a worker that still sees the assignment finds the job's generation gone.
  for (unsigned i = 0; i < slot.recruited; ++i) {
    workers_[slot.recruits[i]].assignment.store(0, std::memory_order_relaxed);
  }
}

void Pool::wake_one(Slot& slot) noexcept {
  // A worker that comes late may wake one of the slot's next job: it takes that duty over, and none is lost.
  std::uint32_t seen = slot.to_wake.load(std::memory_order_relaxed);
  do {
    if ((seen & 0xFFFF) >= seen >> 16) return;
  } while (!slot.to_wake.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire));
  Worker& worker = workers_[slot.sleeping[seen & 0xFFFF].load(std::memory_order_relaxed)];
  if (worker.asleep.exchange(0, std::memory_order_relaxed) != 0) futex_wake(worker.asleep, 1);
}

std::uint64_t Pool::next_assignment(Worker& worker, std::uint64_t last, nanoseconds patience) noexcept {
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

void Pool::work_for_ever(unsigned index) noexcept {
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

struct Pool::Start {
  Pool* pool;
  unsigned index;
};

void* Pool::worker_main(void* start) noexcept {
  const std::unique_ptr<Start> own(static_cast<Start*>(start));
  Pool& pool = *own->pool;
  settle_worker_thread(own->index);
  // One look serves all, and it is not the first job's caller that waits for it.
  if (own->index == 0) pool.cpus_.store(cpus_to_use(), std::memory_order_relaxed);
  pool.work_for_ever(own->index);
}

void Pool::grow(unsigned workers) noexcept {
  const std::unique_lock lock(growing_, std::try_to_lock);
  if (!lock) return;  // Another caller is starting some: this job takes those that are there.
  unsigned started = started_.load(std::memory_order_relaxed);
  if (started >= workers || std::chrono::steady_clock::now() < retry_) return;
  for (; started < workers; ++started) {
    if (!start_worker(started)) {
      // No threads or no memory to be had: not worth a system call in every job to come.
      retry_ = std::chrono::steady_clock::now() + std::chrono::seconds(1);
      break;
    }
    started_.store(started + 1, std::memory_order_release);
  }
}

bool Pool::start_worker(unsigned index) noexcept {
  std::unique_ptr<Start> start(new (std::nothrow) Start{this, index});
  if (!start || !start_detached(&worker_main, start.get())) return false;
  (void)start.release();
  return true;
}

void Pool::count_job(bool was_short) noexcept {
  jobs_.fetch_add(1, std::memory_order_relaxed);
  if (was_short) short_.fetch_add(1, std::memory_order_relaxed);
}

PoolInfo Pool::info() const noexcept {
  PoolInfo info{started_.load(std::memory_order_acquire), 0, jobs_.load(std::memory_order_relaxed),
                short_.load(std::memory_order_relaxed)};
  for (unsigned i = 0; i < info.workers; ++i) {
    if (workers_[i].assignment.load(std::memory_order_relaxed) == 0) ++info.idle;
  }
  return info;
}

void Pool::start_over() noexcept {
  if (jobs_.load(std::memory_order_relaxed) == 0 && started_.load(std::memory_order_relaxed) == 0) return;
  std::destroy_at(this);
  std::construct_at(this);
}

}  // namespace pepnet::threads
