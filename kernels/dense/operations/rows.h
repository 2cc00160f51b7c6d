// The operations of a network that are no products, on rows of float32. A file each; the compiler makes
// vectors of their loops, with the same bits on every CPU: sums are taken in kLanes parts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "dense/ops.h"
#include "dense/plan.h"
#include "network/network.h"

namespace pepnet::engine {

// What an operation is told of its place in a network.
struct RowContext {
  const Ops& ops;
  std::vector<network::Shape>
      reads;          // of its operands; those read across groups come as the columns of one row
  std::size_t width;  // of the result
  std::function<const float*(const network::TensorName&)> tensor;
};

using RowOperationPtr = std::shared_ptr<const RowOperation>;

RowOperationPtr rows_of(const network::Multiply& does, const RowContext& context);
RowOperationPtr rows_of(const network::Add& does, const RowContext& context);
RowOperationPtr rows_of(const network::Affine& does, const RowContext& context);
RowOperationPtr rows_of(const network::Activate& does, const RowContext& context);
RowOperationPtr rows_of(const network::Gate& does, const RowContext& context);
RowOperationPtr rows_of(const network::Fm& does, const RowContext& context);
RowOperationPtr rows_of(const network::Reduce& does, const RowContext& context);
RowOperationPtr rows_of(const network::LayerNorm& does, const RowContext& context);
RowOperationPtr rows_of(const network::Pairs& does, const RowContext& context);
RowOperationPtr rows_of(const network::Select& does, const RowContext& context);

// The larger of two; NaN if either is.
inline float larger(float a, float b) { return a > b || a != a ? a : b; }

// The sum of f(x) over n values.
template <class F>
float sum_of(const float* x, std::size_t n, F f) {
  constexpr std::size_t kLanes = 16;
  float lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += f(x[i + lane]);
  for (std::size_t lane = 0; i < n; ++i, ++lane) lanes[lane] += f(x[i]);
  for (std::size_t half = kLanes / 2; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// For any of them.
RowOperationPtr row_operation(const network::Does& does, const RowContext& context);

RowOperationPtr head_operation(network::HeadKind kind, std::size_t width, const Ops& ops);

}  // namespace pepnet::engine
