// Staged work that writes down what is done to it, and a place where threads meet.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <set>
#include <thread>
#include <vector>

#include "threads/thread_pool.h"

namespace pepnet::test {

// Stage s of work with values: value[s][i] = value[s - 1][(7 i) mod its size] + i + 1. The values are plain
// memory, so that the thread sanitizer sees a stage that begins before the one before it is done, and so does
// `wrong`.
class Recorder : public StagedWork {
 public:
  explicit Recorder(std::vector<std::size_t> units, unsigned participants)
      : sizes_(std::move(units)), inside_(participants < 1 ? 1 : participants), seen_(inside_.size()) {
    for (const std::size_t size : sizes_) values_.emplace_back(size, 0);
  }

  std::size_t stages() const noexcept override { return sizes_.size(); }
  std::size_t units(std::size_t stage) const noexcept override { return sizes_[stage]; }

  void run(std::size_t stage, std::size_t begin, std::size_t end, unsigned participant) noexcept override {
    if (begin >= end || end > sizes_[stage] || participant >= inside_.size()) {
      faults_.fetch_add(1);
      return;
    }
    if (inside_[participant].exchange(true)) faults_.fetch_add(1);  // two threads are one participant
    seen_[participant].store(true);
    for (std::size_t i = begin; i < end; ++i) {
      values_[stage][i] += value(stage, i);  // added, so that a unit done twice is wrong
      unit(stage, i, participant);
    }
    inside_[participant].store(false);
  }

  // Units that were left out, done twice or done before the stage before, and broken promises about `run`'s
  // arguments.
  std::size_t wrong() const {
    std::size_t count = faults_.load();
    std::vector<std::uint64_t> before, now;
    for (std::size_t stage = 0; stage < sizes_.size(); ++stage) {
      now.assign(sizes_[stage], 0);
      for (std::size_t i = 0; i < now.size(); ++i) {
        now[i] = (before.empty() ? 0 : before[7 * i % before.size()]) + i + 1;
        count += now[i] == values_[stage][i] ? 0U : 1U;
      }
      before.swap(now);
    }
    return count;
  }

  std::set<unsigned> participants() const {
    std::set<unsigned> all;
    for (unsigned p = 0; p < seen_.size(); ++p) {
      if (seen_[p].load()) all.insert(p);
    }
    return all;
  }

 protected:
  virtual void unit(std::size_t /*stage*/, std::size_t /*unit*/, unsigned /*participant*/) noexcept {}

 private:
  std::uint64_t value(std::size_t stage, std::size_t i) const {
    const std::size_t before = stage == 0 ? 0 : sizes_[stage - 1];
    return (before == 0 ? 0 : values_[stage - 1][7 * i % before]) + i + 1;
  }

  std::vector<std::size_t> sizes_;
  std::vector<std::vector<std::uint64_t>> values_;
  std::vector<std::atomic<bool>> inside_, seen_;
  std::atomic<std::size_t> faults_{0};
};

// Waits until `ready` is true, for as long as a very slow machine may take. Returns whether it was.
template <class Ready>
bool comes_true(Ready ready) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!ready()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

// One stage with a unit for each participant, which ends when all have begun: so all of them take part.
class Meeting : public Recorder {
 public:
  explicit Meeting(unsigned participants) : Recorder({participants}, participants), expected_(participants) {}
  bool met() const { return met_.load(); }

 protected:
  void unit(std::size_t, std::size_t, unsigned participant) noexcept override {
    arrived_.fetch_add(1);
    if (!comes_true([&] { return arrived_.load() == expected_; })) met_.store(false);
    if (participant != 0) on_worker();
  }
  virtual void on_worker() noexcept {}

 private:
  unsigned expected_;
  std::atomic<unsigned> arrived_{0};
  std::atomic<bool> met_{true};
};

}  // namespace pepnet::test
