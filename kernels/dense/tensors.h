// The tensors of `dense.safetensors`, checked against the flags.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "dense/dense_model.h"

namespace pepnet::engine {

// A gate's two layers: relu(x·w1 + b1)·w2 + b2.
struct GateTensors {
  std::string name;
  const float *w1, *b1, *w2, *b2;
  std::size_t into, hidden, out;
};

// One layer of `copies` networks side by side: w [copies, in, out], b [copies, out].
struct LayerTensors {
  std::string name;
  const float *w, *b;
  std::size_t in, out;
};

struct ModelTensors {
  std::vector<GateTensors> epnet;  // one, or none without EPNet
  std::vector<GateTensors> gates;  // PPNet's, in order of l
  std::vector<LayerTensors> experts;
  LayerTensors mix{};                // mmoe only
  std::vector<LayerTensors> towers;  // mmoe only; the last is one column wide
};

// Throws std::invalid_argument naming the flag that is off.
void check_config(const DenseConfig& config);

// Throws std::invalid_argument naming the option that is off.
void check_options(const network::Network& network, const DenseOptions& options);

// Throws std::invalid_argument naming a tensor that is missing, of another shape, or not finite; or one that
// no operation reads, unless it has no elements.
void check_values(const network::Network& network, const Tensors& tensors);

// Throws std::invalid_argument naming a tensor that is missing, not known, of another shape, or not finite.
ModelTensors check_tensors(const DenseConfig& config, const Tensors& tensors);

}  // namespace pepnet::engine
