#include "network/activation.h"

#include <algorithm>
#include <iterator>

namespace pepnet::network {
namespace {

struct Entry {
  Function function;
  const char* name;
  std::optional<float> alpha = std::nullopt;
  bool slope = false;
};

constexpr Entry kEntries[] = {
    {Function::identity, "identity"},
    {Function::relu, "relu"},
    {Function::sigmoid, "sigmoid"},
    {Function::leaky_relu, "leaky_relu", 0.01F},
    {Function::prelu, "prelu", std::nullopt, true},
    {Function::silu, "silu"},
    {Function::tanh, "tanh"},
    {Function::gelu, "gelu"},
    {Function::gelu_tanh, "gelu_tanh"},
    {Function::elu, "elu", 1.0F},
    {Function::selu, "selu"},
    {Function::hard_sigmoid, "hard_sigmoid"},
    {Function::softplus, "softplus"},
};

const Entry& entry_of(Function function) { return kEntries[static_cast<std::size_t>(function)]; }

// By the number of the function.
static_assert(std::ranges::all_of(kEntries, [](const Entry& entry) {
  return &entry - kEntries == static_cast<std::ptrdiff_t>(entry.function);
}));

}  // namespace

const char* name_of(Function function) { return entry_of(function).name; }

std::optional<Function> function_named(std::string_view name) {
  for (const Entry& entry : kEntries)
    if (name == entry.name) return entry.function;
  return std::nullopt;
}

bool reads_slope(Function function) { return entry_of(function).slope; }
std::optional<float> default_alpha(Function function) { return entry_of(function).alpha; }

}  // namespace pepnet::network
