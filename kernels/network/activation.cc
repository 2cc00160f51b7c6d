#include "network/activation.h"

namespace pepnet::network {
namespace {

constexpr std::nullopt_t kNoAlpha = std::nullopt;

struct Entry {
  const char* name;
  std::optional<float> alpha;
  bool slope;
};

#define PEPNET_ENTRY(name, alpha, slope) {#name, alpha, slope},
constexpr Entry kEntries[] = {PEPNET_ACTIVATIONS(PEPNET_ENTRY)};
#undef PEPNET_ENTRY

const Entry& entry_of(Function function) { return kEntries[static_cast<std::size_t>(function)]; }

}  // namespace

const char* name_of(Function function) { return entry_of(function).name; }

std::optional<Function> function_named(std::string_view name) {
  for (std::size_t i = 0; i < kFunctions; ++i)
    if (name == kEntries[i].name) return static_cast<Function>(i);
  return std::nullopt;
}

bool reads_slope(Function function) { return entry_of(function).slope; }
std::optional<float> default_alpha(Function function) { return entry_of(function).alpha; }

}  // namespace pepnet::network
