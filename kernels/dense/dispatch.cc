#include "dense/dispatch.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "cpu/cpu_info.h"
#include "cpu/named.h"
#include "dense/isa/tables.h"

namespace pepnet {
namespace {

constexpr Named<Isa> kIsaNames[] = {
    {"scalar", Isa::scalar}, {"avx2", Isa::avx2}, {"avx512", Isa::avx512}, {"amx", Isa::amx}};
constexpr Named<Precision> kPrecisionNames[] = {
    {"fp32", Precision::fp32}, {"bf16", Precision::bf16}, {"int8", Precision::int8}};
constexpr Named<Activation> kActivationNames[] = {
    {"f32", Activation::f32}, {"bf16", Activation::bf16}, {"u8", Activation::u8}};

// A table and the CPU features it needs, separated by spaces. Of several for one ISA and precision the first
// that is usable is taken, so the best comes first.
struct Entry {
  Isa isa;
  Precision precision;
  const Ops* ops;
  std::string_view needs;
};

#define PEPNET_AVX512 "avx512f avx512bw avx512vl avx512dq fma"
#define PEPNET_AMX "amx_tile amx_bf16 amx_int8 " PEPNET_AVX512 " avx512bf16"

// CMake says which tables the compiler could make: 1 or 0. The address of one that is not there is never
// taken.
constexpr Entry kEntries[] = {
    {Isa::scalar, Precision::fp32, &kScalarFp32, ""},
    {Isa::scalar, Precision::bf16, &kScalarBf16, ""},
    {Isa::scalar, Precision::int8, &kScalarInt8, ""},
    {Isa::avx2, Precision::fp32, PEPNET_HAS_AVX2 ? &kAvx2Fp32 : nullptr, "avx2 fma"},
    {Isa::avx2, Precision::bf16, PEPNET_HAS_AVX2 ? &kAvx2Bf16 : nullptr, "avx2 fma"},
    {Isa::avx2, Precision::int8, PEPNET_HAS_AVX2 ? &kAvx2Int8 : nullptr, "avx2 fma"},
    {Isa::avx512, Precision::fp32, PEPNET_HAS_AVX512 ? &kAvx512Fp32 : nullptr, PEPNET_AVX512},
    {Isa::avx512, Precision::bf16, PEPNET_HAS_AVX512_BF16 ? &kAvx512Bf16 : nullptr,
     PEPNET_AVX512 " avx512bf16"},
    {Isa::avx512, Precision::bf16, PEPNET_HAS_AVX512 ? &kAvx512Bf16Widened : nullptr, PEPNET_AVX512},
    {Isa::avx512, Precision::int8, PEPNET_HAS_AVX512_VNNI ? &kAvx512Int8 : nullptr,
     PEPNET_AVX512 " avx512vnni"},
    {Isa::amx, Precision::fp32, PEPNET_HAS_AVX512 ? &kAvx512Fp32 : nullptr, PEPNET_AMX},
    {Isa::amx, Precision::bf16, PEPNET_HAS_AMX ? &kAmxBf16 : nullptr, PEPNET_AMX},
    {Isa::amx, Precision::int8, PEPNET_HAS_AMX ? &kAmxInt8 : nullptr, PEPNET_AMX},
};

static_assert(std::ranges::all_of(kIsaNames, [](const Named<Isa>& isa) {
  return std::ranges::all_of(kPrecisions, [&](Precision precision) {
    return std::ranges::any_of(
        kEntries, [&](const Entry& one) { return one.isa == isa.value && one.precision == precision; });
  });
}));

// The features of `needs` that the CPU or the system lacks.
std::string missing(std::string_view needs, const CpuInfo& cpu) {
  std::string result;
  std::istringstream words{std::string(needs)};
  for (std::string name; words >> name;) {
    const bool there = std::ranges::any_of(
        cpu.features, [&](const CpuFeature& feature) { return feature.usable && feature.name == name; });
    if (!there) result += (result.empty() ? "" : ", ") + name;
  }
  return result;
}

// AMX registers are eight kilobytes a thread: Linux gives them to a process that asks, once for all of its
// threads. Returns whether it said yes.
bool amx_permitted() {
#if defined(__x86_64__) && defined(__linux__)
  // arch/x86/include/uapi/asm/prctl.h; older system headers do not have them.
  constexpr long kGetPermitted = 0x1022;
  constexpr long kRequest = 0x1023;
  constexpr long kTileData = 18;
  static const bool permitted = [] {
    if (syscall(SYS_arch_prctl, kRequest, kTileData) != 0) return false;
    unsigned long granted = 0;
    return syscall(SYS_arch_prctl, kGetPermitted, &granted) == 0 && (granted >> kTileData & 1UL) != 0;
  }();
  return permitted;
#else
  return false;
#endif
}

Candidate examine(const Entry& entry, const CpuInfo& cpu) {
  Candidate candidate{entry.isa, entry.precision, entry.ops, false, {}};
  if (entry.ops == nullptr) {
    candidate.why = "the compiler that built this has no such instructions";
    return candidate;
  }
  const std::string lacking = missing(entry.needs, cpu);
  if (!lacking.empty()) {
    candidate.why = "this CPU or system has no " + lacking;
  } else if (entry.isa == Isa::amx && !amx_permitted()) {
    candidate.why = "the system refused the AMX registers (arch_prctl)";
  } else {
    candidate.usable = true;
    candidate.why = entry.needs.empty() ? "runs on any CPU" : "the CPU has " + std::string(entry.needs);
  }
  return candidate;
}

std::vector<Candidate> examine_all() {
  const CpuInfo cpu = cpu_info();
  std::vector<Candidate> all;
  for (const Entry& entry : kEntries) {
    Candidate found = examine(entry, cpu);
    const bool same = !all.empty() && all.back().isa == entry.isa && all.back().precision == entry.precision;
    if (!same) {
      all.push_back(std::move(found));
    } else if (!all.back().usable && found.ops != nullptr) {
      found.why +=
          "; " + (all.back().ops == nullptr ? std::string("better ones were not built") : all.back().why);
      all.back() = std::move(found);
    }
  }
  return all;
}

}  // namespace

const char* name_of(Isa isa) { return name_of(kIsaNames, isa); }
const char* name_of(Precision precision) { return name_of(kPrecisionNames, precision); }
const char* name_of(Activation activation) { return name_of(kActivationNames, activation); }

const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> all = examine_all();
  return all;
}

const Ops& ops_for(Isa isa, Precision precision) {
  const Candidate& candidate = *std::ranges::find_if(candidates(), [&](const Candidate& one) {
    return one.isa == isa && one.precision == precision;  // each pair has an entry
  });
  if (candidate.usable) return *candidate.ops;
  throw std::invalid_argument(std::string("isa: expected one that runs ") + name_of(precision) +
                              " here, got " + name_of(isa) + ": " + candidate.why);
}

Choice choose(Precision precision, const std::string& isa) {
  if (!isa.empty()) return {&ops_for(isa_named(isa), precision), "asked for"};
  const char* const variable = std::getenv("PEPNET_ISA");
  if (variable != nullptr && *variable != '\0') {
    try {
      return {&ops_for(isa_named(variable), precision), std::string("PEPNET_ISA=") + variable};
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(std::string("PEPNET_ISA: ") + error.what());
    }
  }
  const Candidate* best = nullptr;
  std::string passed;
  for (const Candidate& candidate : candidates()) {
    if (candidate.precision != precision) continue;
    if (candidate.usable) {
      best = &candidate;
      passed.clear();
    } else {
      passed += std::string("; not ") + name_of(candidate.isa) + ": " + candidate.why;
    }
  }
  return {best->ops, std::string("the widest that is usable: ") + best->why + passed};
}

Isa isa_named(const std::string& name) { return value_named("isa", kIsaNames, name); }
Precision precision_named(const std::string& name) { return value_named("precision", kPrecisionNames, name); }

}  // namespace pepnet
