#include <pybind11/stl.h>

#include <string>

#include "bindings.h"
#include "cpu/cpu_budget.h"
#include "cpu/cpu_info.h"

namespace pepnet::python {

namespace py = pybind11;

namespace {

py::dict info() {
  const CpuInfo cpu = cpu_info();
  py::dict present;
  py::dict usable;
  for (const CpuFeature& feature : cpu.features) {
    present[feature.name.c_str()] = feature.present;
    usable[feature.name.c_str()] = feature.usable;
  }
  py::list caches;
  for (const CpuCache& cache : cpu.caches) {
    py::dict entry;
    entry["level"] = cache.level;
    entry["type"] = cache.type;
    entry["bytes"] = cache.bytes;
    caches.append(entry);
  }
  py::dict result;
  result["architecture"] = cpu.architecture;
  result["vendor"] = cpu.vendor;
  result["model"] = cpu.model;
  result["present"] = present;
  result["usable"] = usable;
  result["caches"] = caches;
  return result;
}

py::dict budget(const std::string& root) {
  const CpuBudget b = cpu_budget(root);
  py::dict result;
  result["machine"] = b.machine;
  result["affinity"] = b.affinity;
  result["quota"] = b.quota;
  result["quota_source"] = b.quota_source;
  result["threads"] = b.threads;
  return result;
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

py::dict build() {
  py::dict result;
#if defined(__clang__)
  result["compiler"] = "clang++ " __clang_version__;
#else
  result["compiler"] = "g++ " __VERSION__;
#endif
  result["baseline"] = kBaseline;
  return result;
}

}  // namespace

void bind_cpu(py::module_& module) {
  module.def("cpu_info", &info, "What the CPU has: architecture, vendor, model, present, usable, caches.");
  module.def("build_info", &build,
             "What this extension was built with, and the instruction set it takes for granted.");
  module.def("cpu_budget", &budget, py::arg("root") = "",
             "How many CPUs this process may keep busy: machine, affinity, quota, quota_source, threads.");
}

}  // namespace pepnet::python
