#include "threads/thread_pool.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"
#include "staged_recorder.h"

namespace pepnet::test {
namespace {

ThreadPool& pool() { return ThreadPool::instance(); }

// A promise of the pool: workers are as many as the widest job asked for, less its caller.
unsigned widest = 1;

void run(StagedWork& work, unsigned participants, bool spin) {
  widest = std::max(widest, participants);
  pool().run(work, participants, spin);
}

void every_unit_once_in_order() {
  const std::vector<std::vector<std::size_t>> shapes = {
      {}, {0}, {0, 0, 0}, {1}, {1, 1, 1, 1, 1}, {0, 5, 0, 0, 1, 300, 7, 0}, {64, 3, 64, 2, 64, 100, 64, 4}};
  for (const bool spin : {true, false}) {
    for (unsigned participants = 0; participants <= 64; participants += participants < 4 ? 1 : 15) {
      for (int round = 0; round < 10; ++round) {
        for (const auto& shape : shapes) {
          Recorder work(shape, participants);
          run(work, participants, spin);
          CHECK(work.wrong() == 0);
          for (const unsigned p : work.participants()) CHECK(p < std::max(participants, 1U));
        }
      }
    }
  }
  CHECK(pool().workers() == widest - 1);
}

// A job that is over holds nobody: all workers come to the next one.
void all_are_free() {
  const unsigned all = pool().workers() + 1;
  Meeting meeting(all);
  run(meeting, all, false);
  CHECK(meeting.met() && meeting.wrong() == 0);
  CHECK(meeting.participants().size() == all);
}

// More units than the pool counts one by one, at and around the numbers where it changes how many it takes
// together.
void many_units() {
  for (const std::size_t units : {65'535U, 65'536U, 65'537U, 131'070U, 131'071U, 200'003U}) {
    Recorder work({3, units, 2}, 3);
    run(work, 3, true);
    CHECK(work.wrong() == 0);
  }
}

// And more stages than it has tags for.
void many_stages() {
  Recorder work(std::vector<std::size_t>(70'000, 2), 2);
  run(work, 2, true);
  CHECK(work.wrong() == 0);
}

void all_take_part_who_are_asked() {
  for (const unsigned participants : {2U, 64U, 3U, 17U}) {
    for (const bool spin : {false, true}) {
      // Workers of the job before may still be about to leave: these are recruited as they do.
      Meeting meeting(participants);
      run(meeting, participants, spin);
      CHECK(meeting.met() && meeting.wrong() == 0);
      CHECK(meeting.participants().size() == participants);
    }
  }
}

void workers_grow_and_stay() {
  const unsigned before = pool().workers();
  CHECK(before == widest - 1);
  Recorder narrow({50, 50}, 2);
  run(narrow, 2, true);
  CHECK(pool().workers() == before);
  Recorder wide({50, 50}, before + 4);
  run(wide, before + 4, true);
  CHECK(pool().workers() == before + 3);
  CHECK(narrow.wrong() + wide.wrong() == 0);
  all_are_free();
}

void many_callers() {
  std::vector<std::size_t> wrong(6, 0);
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < wrong.size(); ++caller) {
    callers.emplace_back([&, caller] {
      for (unsigned job = 0; job < 150; ++job) {
        const unsigned participants = 1 + (job * 7 + caller) % 9;
        Recorder work({job % 5, 40, 1, 90 + caller, 3}, participants);
        pool().run(work, participants, (job + caller) % 3 != 0);
        wrong[caller] += work.wrong();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const std::size_t count : wrong) CHECK(count == 0);
  CHECK(pool().workers() == widest - 1);  // and not the sum over the callers
  all_are_free();
}

// More jobs at once than the pool has room for, each inside a unit of another: the innermost run on their
// callers.
class Nested : public Recorder {
 public:
  // The innermost lasts long enough for a worker to come, if one were called.
  explicit Nested(int depth) : Recorder({depth == 0 ? 50U : 2U}, 2), depth_(depth) {}
  std::size_t inner_wrong() const { return inner_wrong_.load(); }

 protected:
  void unit(std::size_t, std::size_t index, unsigned) noexcept override {
    if (depth_ == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (depth_ == 0 || index != 0) return;
    Nested inner(depth_ - 1);
    pool().run(inner, 2, true);
    // Of the 32 jobs at once that have room the innermost is none.
    if (depth_ == 1) inner_wrong_.fetch_add(inner.participants() != std::set<unsigned>{0});
    inner_wrong_.fetch_add(inner.wrong() + inner.inner_wrong());
  }

 private:
  int depth_;
  std::atomic<std::size_t> inner_wrong_{0};
};

void nested() {
  Nested work(40);
  run(work, 2, true);
  CHECK(work.wrong() + work.inner_wrong() == 0);
  all_are_free();
}

// Holds all workers in one job until it is told to let go.
class Holder : public Meeting {
 public:
  using Meeting::Meeting;
  void let_go() { released_.store(true); }
  unsigned held() const { return held_.load(); }

 protected:
  void on_worker() noexcept override {
    held_.fetch_add(1);
    (void)comes_true([&] { return released_.load(); });
  }

 private:
  std::atomic<bool> released_{false};
  std::atomic<unsigned> held_{0};
};

// Does what it is told in the first unit of its first stage, and its last stage goes on until a worker has
// come.
class UntilAWorkerComes : public Recorder {
 public:
  UntilAWorkerComes(Holder& holder) : Recorder({1, 100, 400}, 2), holder_(holder) {}

 protected:
  void unit(std::size_t stage, std::size_t, unsigned participant) noexcept override {
    if (stage == 0) holder_.let_go();
    if (participant == 1) came_.store(true);
    if (stage == 2 && !came_.load()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }

 private:
  Holder& holder_;
  std::atomic<bool> came_{false};
};

void a_busy_worker_is_not_waited_for_and_joins_late() {
  const unsigned workers = pool().workers();
  Holder holder(workers + 1);
  std::thread holding([&] { pool().run(holder, workers + 1, false); });
  CHECK(comes_true([&] { return holder.held() == workers; }));

  // All are held: a job is done by its caller, at once.
  Recorder alone({10, 1, 100}, 4);
  run(alone, 4, true);
  CHECK(alone.wrong() == 0 && alone.participants() == std::set<unsigned>{0});
  CHECK(holder.held() == workers);

  // They become free in the middle of a job: one is taken into it.
  UntilAWorkerComes late(holder);
  run(late, 2, true);
  CHECK(late.wrong() == 0 && late.participants() == std::set<unsigned>({0, 1}));
  holding.join();
  CHECK(holder.met() && holder.wrong() == 0);
}

// Sleeps in a unit for longer than anybody spins, so that the others go to sleep within the job, and are
// woken again.
class Slow : public Recorder {
 public:
  Slow() : Recorder({4, 1, 4, 1, 4}, 4) {}

 protected:
  void unit(std::size_t stage, std::size_t, unsigned) noexcept override {
    if (stage % 2 == 1) std::this_thread::sleep_for(std::chrono::milliseconds(4));
  }
};

void sleep_within_a_job() {
  for (int round = 0; round < 20; ++round) {
    Slow work;
    run(work, 4, round % 2 == 0);
    CHECK(work.wrong() == 0);
  }
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void idle_workers_use_no_cpu() {
  for (const bool spin : {true, false}) {
    const unsigned all = pool().workers() + 1;
    Meeting meeting(all);
    run(meeting, all, spin);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(cpu_seconds() - before < 0.015);
  }
}

}  // namespace

void thread_pool() {
  every_unit_once_in_order();
  many_units();
  many_stages();
  all_take_part_who_are_asked();
  workers_grow_and_stay();
  many_callers();
  nested();
  a_busy_worker_is_not_waited_for_and_joins_late();
  sleep_within_a_job();
  idle_workers_use_no_cpu();
}

}  // namespace pepnet::test
