// The pool and the process around it: forks, signals, names, CPUs, a system without threads to give.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "staged_recorder.h"
#include "threads/thread_pool.h"

// The thread sanitizer refuses to start threads in the child of a process that had several.
#if defined(__SANITIZE_THREAD__)
#define PEPNET_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PEPNET_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define PEPNET_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PEPNET_ASAN 1
#endif
#endif

namespace pepnet::test {
namespace {

ThreadPool& pool() { return ThreadPool::instance(); }

// Runs `body` in a forked child; its result is whether all was well. A child that hangs is killed.
template <class Body>
bool well_in_a_child(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  CHECK(child > 0);
  int status = -1;
  const bool ended = comes_true([&] { return waitpid(child, &status, WNOHANG) == child; });
  if (!ended) {
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  return ended && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool meeting_of(unsigned participants) {
  Meeting meeting(participants);
  pool().run(meeting, participants, true);
  return meeting.met() && meeting.wrong() == 0;
}

bool starts_over_after_fork() {
  if (pool().workers() != 0) return false;
#if !defined(PEPNET_TSAN)
  if (!meeting_of(3)) return false;
  if (pool().workers() != 2) return false;
#endif
  Recorder alone({5, 50}, 1);
  pool().run(alone, 1, true);
  return alone.wrong() == 0;
}

// Work that allocates nothing: the address sanitizer's allocator has locks that it leaves taken in a child.
class Tally : public StagedWork {
 public:
  std::size_t stages() const noexcept override { return kUnits.size(); }
  std::size_t units(std::size_t stage) const noexcept override { return kUnits[stage]; }
  void run(std::size_t stage, std::size_t begin, std::size_t end, unsigned) noexcept override {
    if (stage != 0 && done_[stage - 1].load() != kUnits[stage - 1]) early_.store(true);
    done_[stage].fetch_add(end - begin);
  }
  bool right() {
    bool right = !early_.load();
    for (std::size_t stage = 0; stage < kUnits.size(); ++stage) {
      right = done_[stage].exchange(0) == kUnits[stage] && right;
    }
    return right;
  }

 private:
  static constexpr std::array<std::size_t, 3> kUnits = {20, 1, 30};
  std::array<std::atomic<std::size_t>, 3> done_{};
  std::atomic<bool> early_{false};
};

// Forks while other threads start and end jobs: the child finds a pool that works, the parent one that still
// does.
[[maybe_unused]] void fork_amid_jobs() {
  std::atomic<bool> stop{false};
  std::atomic<unsigned> wrong{0}, jobs{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 2; ++caller) {
    callers.emplace_back([&] {
      Tally work;
      while (!stop.load()) {
        pool().run(work, 3, jobs.fetch_add(1) % 2 == 0);
        if (!work.right()) wrong.fetch_add(1);
      }
    });
  }
  CHECK(comes_true([&] { return jobs.load() > 100; }));
  for (int round = 0; round < 25; ++round) CHECK(well_in_a_child(starts_over_after_fork));
  stop.store(true);
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong.load() == 0);
  CHECK(meeting_of(3));
}

// What a worker finds out about itself.
class AskWorker : public Meeting {
 public:
  AskWorker() : Meeting(2) {}
  sigset_t blocked{};
  cpu_set_t cpus{};
  char name[16]{};

 protected:
  void on_worker() noexcept override {
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    sched_getaffinity(0, sizeof cpus, &cpus);
    pthread_getname_np(pthread_self(), name, sizeof name);
  }
};

void workers_have_names_and_block_signals() {
  AskWorker ask;
  pool().run(ask, 2, false);
  CHECK(ask.met());
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGUSR1, SIGALRM, SIGPROF}) {
    CHECK(sigismember(&ask.blocked, signal) == 1);
  }
  CHECK(std::strncmp(ask.name, "pepnet-", 7) == 0);
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);
  CHECK(sigismember(&own, SIGINT) == 0);  // the caller's are as before
}

#if !defined(PEPNET_TSAN)
// The first caller is pinned to one CPU, the main thread is not: the worker has the main thread's CPUs.
bool a_pinned_caller_does_not_pin_workers() {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0) return false;
  AskWorker ask;
  std::thread pinned([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    for (std::size_t cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    }
    sched_setaffinity(0, sizeof one, &one);
    pool().run(ask, 2, false);
  });
  pinned.join();
  return ask.met() && CPU_EQUAL(&ask.cpus, &all);
}
#endif

#if !defined(PEPNET_TSAN) && !defined(PEPNET_ASAN)
// Memory for a few threads' stacks only. (Sanitizers give up when they get none.)
bool a_job_is_done_with_the_threads_there_are() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t limit = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + (60U << 20);
  const rlimit few{limit, limit};
  if (setrlimit(RLIMIT_AS, &few) != 0) return false;
  Recorder work({100, 1, 100}, 200);
  for (int job = 0; job < 3; ++job) {
    pool().run(work, 200, true);
    if (job == 0 && work.wrong() != 0) return false;
  }
  return pool().workers() < 199;
}
#endif

}  // namespace

void pool_process() {
  CHECK(meeting_of(3));
#if !defined(PEPNET_ASAN)
  fork_amid_jobs();  // the address sanitizer leaves locks of its own taken in a child: now and then one would
                     // hang
#endif
  workers_have_names_and_block_signals();
#if !defined(PEPNET_TSAN)
  CHECK(well_in_a_child(a_pinned_caller_does_not_pin_workers));
#endif
#if !defined(PEPNET_TSAN) && !defined(PEPNET_ASAN)
  CHECK(well_in_a_child(a_job_is_done_with_the_threads_there_are));
#endif
}

}  // namespace pepnet::test
