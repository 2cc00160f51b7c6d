#include "bindings.h"
#include "cpu/cpu_budget.h"
#include "cpu/cpu_info.h"

namespace pepnet::python {

namespace {

py::dict info() {
  const CpuInfo cpu = cpu_info();
  py::list present, usable, absent;
  for (const CpuFeature& feature : cpu.features) {
    (feature.present ? present : absent).append(feature.name);
    if (feature.usable) usable.append(feature.name);
  }
  py::dict caches;
  for (const CpuCache& cache : cpu.caches)
    caches[py::str("L{} {}").format(cache.level, cache.type)] = cache.bytes;
  return py::dict("architecture"_a = cpu.architecture, "vendor"_a = cpu.vendor, "model"_a = cpu.model,
                  "present"_a = present, "usable"_a = usable, "absent"_a = absent, "caches"_a = caches);
}

py::dict budget(const std::string& root) {
  const CpuBudget b = cpu_budget(root);
  return py::dict("machine"_a = b.machine, "affinity"_a = b.affinity, "quota"_a = b.quota,
                  "quota_source"_a = b.quota_source, "threads"_a = b.threads);
}

// What the extension itself was compiled for. Wider code would be chosen at load, never assumed.
constexpr const char* kBaseline =
#if defined(__AVX512F__)
    "avx512f";
#elif defined(__AVX2__)
    "avx2";
#elif defined(__SSE2__)
    "sse2";
#elif defined(__ARM_NEON)
    "neon";
#else
    "none";
#endif

constexpr const char* kCompiler =
#if defined(__clang__)
    "clang++ " __clang_version__;
#else
    "g++ " __VERSION__;
#endif

py::dict build() { return py::dict("compiler"_a = kCompiler, "baseline"_a = kBaseline); }

}  // namespace

void bind_cpu(py::module_& module) {
  module.def(
      "cpu_info", &info,
      "The CPU: architecture, vendor, model; names of the features that it has, that the system lets "
      "it use, and that it lacks; and caches, as \"L1 data\" -> bytes, none where the kernel does not say.");
  module.def("build_info", &build,
             "What this extension was built with, and the instruction set it takes for granted.");
  module.def("cpu_budget", &budget, "root"_a = "",
             "How many CPUs this process may keep busy: machine, affinity, quota, quota_source, threads.");
}

}  // namespace pepnet::python
