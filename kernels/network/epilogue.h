// What becomes of the sums of a product, x = a·w + b: the cases that kernels tell apart.
#pragma once

#include <cstdint>

namespace pepnet::network {

enum class Epilogue : std::uint8_t {
  linear,    // x
  relu,      // max(x, 0); NaN stays NaN
  gate,      // gamma * sigmoid(x)
  function,  // one of the table in network/activation.h, chosen when the product runs
};

}  // namespace pepnet::network
