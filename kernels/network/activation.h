// The activations that an operation may end with. docs/network.md has their formulas.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace pepnet::network {

enum class Function : std::uint8_t {
  identity,
  relu,
  sigmoid,
  leaky_relu,
  prelu,
  silu,
  tanh,
  gelu,
  gelu_tanh,
  elu,
  selu,
  hard_sigmoid,
  softplus,
};

const char* name_of(Function function);
std::optional<Function> function_named(std::string_view name);

// Whether the function has a slope for each column, which is a tensor.
bool reads_slope(Function function);
// The alpha of a function that reads one, unless another is given.
std::optional<float> default_alpha(Function function);

}  // namespace pepnet::network
