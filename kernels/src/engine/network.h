// From flags and tensors to packed weights and a plan.
#pragma once

#include "engine/packer.h"
#include "engine/plan.h"
#include "engine/tensors.h"
#include "pepnet/dense_model.h"

namespace pepnet::engine {

// The plan's weights are in `packer`, which is left for the caller to finish.
Plan build_network(const DenseConfig& config, const ModelTensors& tensors, const Ops& main, const Ops& small,
                   const DenseOptions& options, Packer& packer);

}  // namespace pepnet::engine
