// One job under way: who may take which units, and when a stage is done.
//
// Everything hangs on one word, the cursor: [generation:32][tag:16][units left to take:16]. A thread takes
// units by lowering it with one compare-and-swap, so a claim succeeds only in the very stage of the very job
// whose cursor the thread has read. That is what lets the caller return without asking the workers: one that
// was preempted on its way into the job, and comes back when the job is over or another one uses the same
// slot, fails to claim and leaves. A stage is done when its finished units are as many as it has: nobody
// waits for a thread that holds none.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "threads/wait.h"

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

}  // namespace pepnet

namespace pepnet::threads {

class StagedJob {
 public:
  // By the slot's owner, when no job is open: opens `work` at its first stage that has units. False: none
  // has. `patience` is how long a participant spins for the next stage before it sleeps.
  bool open(StagedWork& work, unsigned participants, std::chrono::nanoseconds patience) noexcept;

  // Names the job that is open, or the next one to be.
  std::uint32_t generation() const noexcept { return generation_of(cursor_.load(std::memory_order_relaxed)); }

  // Does units until the job is done, or returns at once if it is another one by now. Calls `before_claim`
  // before it tries to take some.
  template <class BeforeClaim>
  void participate(std::uint32_t generation, unsigned participant, BeforeClaim before_claim) noexcept {
    std::uint32_t finished = 0;  // and not yet told to the others
    std::uint64_t seen = cursor_.load(std::memory_order_acquire);
    while (generation_of(seen) == generation) {
      const std::uint32_t left = left_of(seen);
      if (left != 0) {
        before_claim();
        const std::uint32_t taken = chunk(left);
        // Acquire: pairs with `publish`, so that the plain members below are those of this stage, and so is
        // all that earlier stages wrote. Claims of others in between are read-modify-writes and keep the
        // chain.
        if (cursor_.compare_exchange_weak(seen, seen - taken, std::memory_order_acquire)) {
          run(left, taken, participant);
          finished += taken;
          seen = cursor_.load(std::memory_order_acquire);
        }
      } else if (finished != 0) {
        report(finished);
        finished = 0;
        seen = cursor_.load(std::memory_order_acquire);
      } else {
        seen = wait_past(seen);
      }
    }
  }

 private:
  static constexpr std::uint32_t kMostGroups = 0xFFFF;

  static std::uint32_t generation_of(std::uint64_t cursor) {
    return static_cast<std::uint32_t>(cursor >> 32);
  }
  static std::uint32_t left_of(std::uint64_t cursor) { return static_cast<std::uint32_t>(cursor & 0xFFFF); }

  // Half of what would be an equal share: large pieces while there is much left, so that few claims are
  // needed, and single units at the end, so that all finish together whenever each began.
  std::uint32_t chunk(std::uint32_t left) const noexcept {
    return std::max<std::uint32_t>(1, left / (2 * participants_.load(std::memory_order_relaxed)));
  }

  bool find_stage(std::size_t first) noexcept;
  void run(std::uint32_t left, std::uint32_t taken, unsigned participant) noexcept;
  void report(std::uint32_t finished) noexcept;
  void publish(std::uint64_t cursor) noexcept;
  std::uint64_t wait_past(std::uint64_t seen) noexcept;

  // The tag changes with each stage and does not start over with a job, so no two stages near in time have
  // one cursor. A claim could only go wrong for a thread that stood still between reading and swapping while
  // the slot went through exactly a multiple of 2^32 jobs.
  alignas(kApart) std::atomic<std::uint64_t> cursor_{0};

  // Written by the thread that opens a stage, when nobody holds a claim; read by those who hold one. On the
  // cursor's line, which a claim has just brought along.
  StagedWork* work_ = nullptr;
  std::size_t stage_ = 0;
  std::size_t units_ = 0;
  std::size_t group_ = 0;  // units that are taken together, for the count of groups to fit the cursor
  std::uint32_t groups_ = 0;
  // These may also be read by a thread whose job is over: any value serves it.
  std::atomic<unsigned> participants_{0};
  std::atomic<std::chrono::nanoseconds::rep> patience_{0};

  // Groups finished. Apart, because all who wait look at the cursor.
  alignas(kApart) std::atomic<std::uint32_t> done_{0};

  alignas(kApart) std::atomic<std::uint32_t> sleepers_{0};
  std::atomic<std::uint32_t> wakes_{0};  // what sleepers sleep on
};

}  // namespace pepnet::threads
