#include "threads/staged_job.h"

namespace pepnet::threads {
namespace {

constexpr std::uint64_t kOneTag = std::uint64_t{1} << 16;
constexpr std::uint64_t kTagBits = 0xFFFF'0000;
constexpr std::uint64_t kGenerationBits = std::uint64_t{0xFFFF'FFFF} << 32;

// The same generation and the next tag, with nothing left.
std::uint64_t next_tag(std::uint64_t cursor) {
  return (cursor & kGenerationBits) | ((cursor + kOneTag) & kTagBits);
}

}  // namespace

bool StagedJob::open(StagedWork& work, unsigned participants, std::chrono::nanoseconds patience) noexcept {
  work_ = &work;
  if (!find_stage(0)) return false;
  participants_.store(participants, std::memory_order_relaxed);
  patience_.store(patience.count(), std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  publish(next_tag(cursor_.load(std::memory_order_relaxed)) + groups_);
  return true;
}

bool StagedJob::find_stage(std::size_t first) noexcept {
  const std::size_t stages = work_->stages();
  for (stage_ = first; stage_ < stages; ++stage_) {
    units_ = work_->units(stage_);
    if (units_ == 0) continue;
    group_ = (units_ - 1) / kMostGroups + 1;
    groups_ = static_cast<std::uint32_t>((units_ - 1) / group_ + 1);
    return true;
  }
  return false;
}

void StagedJob::run(std::uint32_t left, std::uint32_t taken, unsigned participant) noexcept {
  const std::size_t first = groups_ - left;
  work_->run(stage_, first * group_, std::min((first + taken) * group_, units_), participant);
}

void StagedJob::report(std::uint32_t finished) noexcept {
  // Release for what this thread's units wrote, acquire for what the others' did: the last one to report
  // hands all of it on with `publish`. Read before the addition: afterwards the stage may be another one's to
  // change.
  const std::uint32_t groups = groups_;
  if (done_.fetch_add(finished, std::memory_order_acq_rel) + finished != groups) return;
  // All units are done and none is left to take: until the next `publish` this thread alone touches the job.
  done_.store(0, std::memory_order_relaxed);
  const std::uint64_t cursor = next_tag(cursor_.load(std::memory_order_relaxed));
  if (find_stage(stage_ + 1)) {
    publish(cursor + groups_);
  } else {
    publish(cursor + (std::uint64_t{1} << 32));  // The caller returns now: `work_` is gone.
  }
}

void StagedJob::publish(std::uint64_t cursor) noexcept {
  // Both sequentially consistent, as are the two in `wait_past`: either this thread sees the sleeper, or the
  // sleeper sees the new cursor before it goes to sleep.
  cursor_.store(cursor, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  wakes_.fetch_add(1, std::memory_order_release);
  futex_wake(wakes_, INT_MAX);
}

std::uint64_t StagedJob::wait_past(std::uint64_t seen) noexcept {
  std::uint64_t now = seen;
  const auto changed = [&] {
    now = cursor_.load(std::memory_order_acquire);
    return now != seen;
  };
  if (spin_until(changed, std::chrono::nanoseconds(patience_.load(std::memory_order_relaxed)))) return now;
  while (!changed()) {
    // Acquire: whoever reads the count after a wake sees the cursor that came before it.
    const std::uint32_t wakes = wakes_.load(std::memory_order_acquire);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (cursor_.load(std::memory_order_seq_cst) == seen) futex_wait(wakes_, wakes);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }
  return now;
}

}  // namespace pepnet::threads
