// The offsets of intermediates in scratch memory. Intermediates that are never alive together share memory.
#pragma once

#include <cstddef>
#include <vector>

#include "dense/plan.h"

namespace pepnet::engine {

// For `rows` rows buffer b begins at rows * offsets[b], so one layout serves any number of rows, without
// gaps.
struct Layout {
  std::vector<std::size_t> offsets;
  std::size_t row_bytes = 0;
};

// For threads that go through the steps on their own.
Layout layout_by_steps(const Plan& plan);
// For threads that meet between stages.
Layout layout_by_stages(const Plan& plan);

}  // namespace pepnet::engine
