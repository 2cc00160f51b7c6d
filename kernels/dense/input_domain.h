// The range of inputs that a narrow precision was measured on. In a row with a value far larger than the
// others, or with many large ones, the rounding steps are too wide for the rest of the row: its scores would
// be wrong.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dense/dense_model.h"
#include "dense/ops.h"

namespace pepnet::engine {

// outside[r] of rows [begin, end): 1 where a row is not within the limits, or holds NaN. Each row by itself.
void mark_outside(const DenseConfig& config, const InputDomain& domain, const Ops& ops,
                  const DenseInputs& inputs, std::size_t begin, std::size_t end, std::uint8_t* outside);

}  // namespace pepnet::engine
