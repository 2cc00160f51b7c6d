// From flags and tensors to packed weights and a plan.
#pragma once

#include "dense/dense_model.h"
#include "dense/pack_model.h"
#include "dense/plan.h"
#include "dense/tensors.h"

namespace pepnet::engine {

// The plan's weights are in `packer`, which is left for the caller to finish.
Plan build_network(const DenseConfig& config, const ModelTensors& tensors, const Ops& main, const Ops& small,
                   const DenseOptions& options, Packer& packer);

}  // namespace pepnet::engine
