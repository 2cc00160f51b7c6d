// The features and caches of the CPU. Which of them are used is chosen elsewhere.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace pepnet {

// One feature: in the silicon, and saved by the operating system on a context switch. Only both together are
// usable.
struct CpuFeature {
  std::string name;
  bool present;
  bool usable;
};

struct CpuCache {
  int level;
  std::string type;  // "data", "instruction", "unified"
  std::size_t bytes;
};

struct CpuInfo {
  std::string architecture;  // "x86_64", "aarch64", …
  std::string vendor;        // "GenuineIntel", "AuthenticAMD", …; empty outside x86-64
  std::string model;         // the name it was sold under; empty where neither the CPU nor the kernel says
  std::vector<CpuFeature> features;  // those that kernels of this project may ask for; none outside x86-64
  std::vector<CpuCache> caches;      // of CPU 0; none where the kernel does not say
};

// Reads cpuid and /sys, and /proc for a model that cpuid does not name. Costs some system calls: ask once.
CpuInfo cpu_info();
std::vector<CpuCache> read_caches();  // the caches alone

}  // namespace pepnet
