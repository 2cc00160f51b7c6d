#include "cpu/cpu_info.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace pepnet {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "48K" or "32M", as the kernel writes cache sizes.
std::size_t parse_size(const std::string& text) {
  if (text.empty()) return 0;
  const auto unit = std::string_view("KMG").find(text.back());
  return std::strtoull(text.c_str(), nullptr, 10) << (unit == std::string_view::npos ? 0 : 10 * (unit + 1));
}

std::string trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  return std::string(text.substr(0, text.find_last_not_of(' ') + 1));
}

std::string model_of_kernel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name") && !line.starts_with("Model")) continue;  // of single-board computers
    const auto colon = line.find(':');
    if (colon != std::string::npos) return trimmed(line.substr(colon + 1));
  }
  return {};
}

#if defined(__x86_64__)

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zeros for a leaf above the CPU's highest: every feature bit reads as absent.
Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf = 0) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

// The text that registers spell, up to its first zero.
std::string spelled(std::initializer_list<Registers> all) {
  return std::string(reinterpret_cast<const char*>(all.begin()), all.size() * sizeof(Registers)).c_str();
}

// Which register files the operating system saves (XCR0). In assembly: the intrinsic would need
// the whole file compiled for XSAVE.
std::uint64_t saved_state() {
  if ((cpuid(1).ecx >> 27 & 1) == 0) return 0;  // OSXSAVE
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

void read_x86(CpuInfo& info) {
  constexpr std::uint64_t kAvx = 0x6;        // XMM, YMM
  constexpr std::uint64_t kAvx512 = 0xE6;    // and opmask, ZMM low, ZMM high
  constexpr std::uint64_t kTiles = 0x60000;  // XTILECFG, XTILEDATA
  const Registers top = cpuid(0);
  const Registers one = cpuid(1);
  const Registers seven = cpuid(7);
  const Registers seven_one = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
  const std::uint64_t saved = saved_state();
  info.vendor = spelled({{top.ebx, top.edx, top.ecx, 0}});
  info.model = trimmed(spelled({cpuid(0x8000'0002), cpuid(0x8000'0003), cpuid(0x8000'0004)}));

  struct Bit {
    const char* name;
    std::uint32_t word;
    unsigned bit;
    std::uint64_t state;
  };
  const Bit bits[] = {
      {"avx2", seven.ebx, 5, kAvx},
      {"fma", one.ecx, 12, kAvx},
      {"f16c", one.ecx, 29, kAvx},
      {"avx512f", seven.ebx, 16, kAvx512},
      {"avx512bw", seven.ebx, 30, kAvx512},
      {"avx512vl", seven.ebx, 31, kAvx512},
      {"avx512dq", seven.ebx, 17, kAvx512},
      {"avx512vnni", seven.ecx, 11, kAvx512},
      {"avx512bf16", seven_one.eax, 5, kAvx512},
      {"avx512fp16", seven.edx, 23, kAvx512},
      {"amx_tile", seven.edx, 24, kTiles},
      {"amx_bf16", seven.edx, 22, kTiles},
      {"amx_int8", seven.edx, 25, kTiles},
  };
  for (const Bit& b : bits) {
    const bool present = (b.word >> b.bit & 1) != 0;
    info.features.push_back({b.name, present, present && (saved & b.state) == b.state});
  }
}

#endif

}  // namespace

std::vector<CpuCache> read_caches() {
  std::vector<CpuCache> caches;
  for (int index = 0;; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const std::string level = first_line(folder + "level");
    if (level.empty()) return caches;
    std::string type = first_line(folder + "type");
    for (char& c : type) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    caches.push_back({level[0] - '0', type, parse_size(first_line(folder + "size"))});
  }
}

CpuInfo cpu_info() {
  CpuInfo info;
#if defined(__x86_64__)
  info.architecture = "x86_64";
  read_x86(info);
#elif defined(__aarch64__)
  info.architecture = "aarch64";
#else
  info.architecture = "other";
#endif
  if (info.model.empty()) info.model = model_of_kernel();
  info.caches = read_caches();
  return info;
}

}  // namespace pepnet
