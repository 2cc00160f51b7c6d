// The tensors of `dense.safetensors`, checked against the network.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "dense/dense_model.h"

namespace pepnet::engine {

// Throws std::invalid_argument naming the option that is off.
void check_options(const network::Network& network, const DenseOptions& options);

// Throws std::invalid_argument naming a tensor that is missing, of another shape, or not finite; or one that
// no operation reads, unless it has no elements.
void check_values(const network::Network& network, const Tensors& tensors);

}  // namespace pepnet::engine
