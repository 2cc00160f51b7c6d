#include "cpu/cpu_budget.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

namespace pepnet {
namespace {

int cpus_online() { return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))); }

// The size of the calling thread's mask. The kernel refuses a buffer smaller than its own mask: this one is
// for more CPUs than any kernel is built for.
int cpus_in_mask() {
  constexpr std::size_t kBytes = 16'384 / 8;
  cpu_set_t mask[kBytes / sizeof(cpu_set_t)] = {};
  return sched_getaffinity(0, kBytes, mask) == 0 ? std::max(1, CPU_COUNT_S(kBytes, mask)) : cpus_online();
}

struct Mount {
  std::string root;   // which part of the cgroup tree is mounted
  std::string point;  // where
  bool unified;       // version 2
};

bool has_option(const std::string& options, const std::string& wanted) {
  return ("," + options + ",").find("," + wanted + ",") != std::string::npos;
}

// The cgroup file systems that may limit CPU time, from lines such as
//   32 31 0:29 /docker/4f /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
std::vector<Mount> cgroup_mounts(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream head(line.substr(0, dash));
    std::istringstream tail(line.substr(dash + 3));
    std::string skip, mount_root, point, kind, source, options;
    head >> skip >> skip >> skip >> mount_root >> point;
    tail >> kind >> source >> options;
    if (kind == "cgroup2" || (kind == "cgroup" && has_option(options, "cpu"))) {
      mounts.push_back({mount_root, point, kind == "cgroup2"});
    }
  }
  return mounts;
}

// This process's path in the hierarchy of `mount`, from lines "0::/a/b" (version 2) and "4:cpu,cpuacct:/a/b".
std::string cgroup_path(const std::string& root, bool unified) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (unified ? controllers.empty() : has_option(controllers, "cpu")) return line.substr(second + 1);
  }
  return "/";
}

std::optional<double> read_quota(const std::string& folder, bool unified, std::string& source) {
  double quota = 0;
  double period = 0;
  if (unified) {
    source = folder + "/cpu.max";  // "max 100000" or "150000 100000"
    std::ifstream file(source);
    if (!(file >> quota >> period)) return std::nullopt;
  } else {
    source = folder + "/cpu.cfs_quota_us";
    std::ifstream quota_file(source);
    std::ifstream period_file(folder + "/cpu.cfs_period_us");
    if (!(quota_file >> quota) || !(period_file >> period)) return std::nullopt;
  }
  if (quota <= 0 || period <= 0) return std::nullopt;  // version 1 writes -1 for "unlimited"
  return quota / period;
}

// A limit binds the whole subtree under it: look at every folder from the process's own up to the mount
// point.
void apply_quotas(const std::string& root, const Mount& mount, CpuBudget& budget) {
  std::string path = cgroup_path(root, mount.unified);
  if (mount.root != "/" && path.starts_with(mount.root)) path.erase(0, mount.root.size());
  while (true) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    std::string source;
    const std::optional<double> quota = read_quota(root + mount.point + path, mount.unified, source);
    if (quota && (!budget.quota || *quota < *budget.quota)) {
      budget.quota = quota;
      budget.quota_source = source;
    }
    if (path.empty()) return;
    path.erase(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace

CpuBudget cpu_budget(const std::string& root) {
  CpuBudget budget{cpus_online(), cpus_in_mask(), std::nullopt, {}, 1};
  for (const Mount& mount : cgroup_mounts(root)) apply_quotas(root, mount, budget);
  budget.threads = budget.affinity;
  if (budget.quota) {
    // Rounded down: threads that wait for one another at every layer stand still when the group has used up
    // its period, so one thread too many costs more than the fraction of a CPU left idle.
    budget.threads = std::clamp(static_cast<int>(std::min(*budget.quota, 1e6)), 1, budget.affinity);
  }
  return budget;
}

}  // namespace pepnet
