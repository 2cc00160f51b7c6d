// The activations that an operation may end with. docs/network.md has their formulas.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace pepnet::network {

// All of them: each(name, alpha unless another is given or kNoAlpha, whether it has a slope for each column,
// which is a tensor). For each, kernels/dense/generic/activations.h and kernels/cuda/activation.h have a
// function f_NAME.
#define PEPNET_ACTIVATIONS(each)                                                                     \
  each(identity, kNoAlpha, false) each(relu, kNoAlpha, false) each(sigmoid, kNoAlpha, false)         \
      each(leaky_relu, 0.01F, false) each(prelu, kNoAlpha, true) each(silu, kNoAlpha, false)         \
          each(tanh, kNoAlpha, false) each(gelu, kNoAlpha, false) each(gelu_tanh, kNoAlpha, false)   \
              each(elu, 1.0F, false) each(selu, kNoAlpha, false) each(hard_sigmoid, kNoAlpha, false) \
                  each(softplus, kNoAlpha, false) each(hard_silu, kNoAlpha, false)

#define PEPNET_NAME(name, alpha, slope) name,
enum class Function : std::uint8_t { PEPNET_ACTIVATIONS(PEPNET_NAME) };
#undef PEPNET_NAME

#define PEPNET_ONE(name, alpha, slope) +1
constexpr std::size_t kFunctions = 0 PEPNET_ACTIVATIONS(PEPNET_ONE);
#undef PEPNET_ONE

const char* name_of(Function function);
std::optional<Function> function_named(std::string_view name);

// Whether the function has a slope for each column, which is a tensor.
bool reads_slope(Function function);
// The alpha of a function that reads one, unless another is given.
std::optional<float> default_alpha(Function function);

}  // namespace pepnet::network
