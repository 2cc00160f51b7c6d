// How many CPUs this process may use, which containers and masks limit.
#pragma once

#include <optional>
#include <string>

namespace pepnet {

struct CpuBudget {
  int machine;                  // CPUs online
  int affinity;                 // CPUs in this thread's mask: cpusets, taskset, container pinning
  std::optional<double> quota;  // CPUs' worth of time of the tightest cgroup above; none is unlimited
  std::string quota_source;     // the file that says so
  int threads;                  // what to start
};

// `root` is put before /proc and cgroup paths, for tests.
CpuBudget cpu_budget(const std::string& root = "");

}  // namespace pepnet
