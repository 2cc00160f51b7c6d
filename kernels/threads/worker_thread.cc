#include "threads/worker_thread.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

#include "cpu/cpu_budget.h"

namespace pepnet::threads {
namespace {

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

}  // namespace

bool start_detached(void* (*main)(void*), void* argument) noexcept {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // A new thread inherits the mask, so that no signal can reach it before it has blocked them itself.
  sigset_t all, before;
  sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, main, argument) == 0;
  (void)pthread_sigmask(SIG_SETMASK, &before, nullptr);
  (void)pthread_attr_destroy(&attributes);
  return started;
}

void settle_worker_thread(unsigned index) noexcept {
  char name[24];  // of which the kernel takes 15 characters
  std::snprintf(name, sizeof name, "pepnet-%u", index + 1);
  (void)pthread_setname_np(pthread_self(), name);
  widen_mask();
}

unsigned cpus_to_use() noexcept {
  try {
    return static_cast<unsigned>(cpu_budget().threads);
  } catch (const std::exception&) {
    return 1;  // No memory to find out: spin as little as with one CPU, which is slower and never wrong.
  }
}

}  // namespace pepnet::threads
