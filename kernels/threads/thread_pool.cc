#include "threads/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "threads/workers.h"

namespace pepnet {
namespace {

using threads::Pool;

// Never destroyed, and all of it constant at load: workers may run on while the process's other statics go,
// and a forked child can put it back to what it was at the start.
constinit Pool process_pool;

// The child of a fork has none of the workers, and whatever the others were doing stands still half done,
// locks included. Nothing of it is touched: the pool starts anew. Registered at load, before any thread can
// fork in between.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { process_pool.start_over(); });

void run_alone(StagedWork& work) noexcept {
  const std::size_t stages = work.stages();
  for (std::size_t stage = 0; stage < stages; ++stage) {
    const std::size_t units = work.units(stage);
    if (units != 0) work.run(stage, 0, units, 0);
  }
}

}  // namespace

ThreadPool& ThreadPool::instance() noexcept {
  static constinit ThreadPool facade;
  return facade;
}

void ThreadPool::run(StagedWork& work, unsigned participants, bool spin) noexcept {
  const unsigned wanted = std::min(participants, kMaxParticipants);
  if (wanted <= 1) {
    process_pool.count_job(wanted < participants);
    run_alone(work);
    return;
  }
  threads::Slot* const slot = process_pool.take_slot();
  if (slot == nullptr) {
    process_pool.count_job(true);
    run_alone(work);
    return;
  }
  const bool served = process_pool.run(*slot, work, wanted, spin);
  process_pool.give_back(*slot);
  process_pool.count_job(!served || wanted < participants);
}

PoolInfo ThreadPool::info() const noexcept { return process_pool.info(); }

}  // namespace pepnet
