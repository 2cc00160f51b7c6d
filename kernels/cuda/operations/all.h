// The operations on rows. A number among them is what a launch has of an operation.
#pragma once

#include <cstddef>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda/operations/activate.h"
#include "cuda/operations/affine.h"
#include "cuda/operations/elementwise.h"
#include "cuda/operations/fm.h"
#include "cuda/operations/head.h"
#include "cuda/operations/layer_norm.h"
#include "cuda/operations/pairs.h"
#include "cuda/operations/reduce.h"
#include "cuda/operations/select.h"

namespace pepnet::cuda {

using RowOperations = std::tuple<ActivateRows, GateRows, MultiplyRows, AddRows, AffineRows, FmRows,
                                 ReduceRows, LayerNormRows, SelectRows, PairsRows, HeadRows>;
constexpr std::size_t kRowOperations = std::tuple_size_v<RowOperations>;

// The number of the operation that does this; none: there is no kernel for it.
template <class Does, std::size_t kNumber = 0>
constexpr std::optional<int> row_operation() {
  if constexpr (kNumber == kRowOperations) {
    return std::nullopt;
  } else if constexpr (std::is_same_v<typename std::tuple_element_t<kNumber, RowOperations>::Does, Does>) {
    return static_cast<int>(kNumber);
  } else {
    return row_operation<Does, kNumber + 1>();
  }
}

#ifdef PEPNET_KERNELS

// grid: rows · groups / warps of a block, rounded up. A warp for each group of a row.
template <class Operation>
__global__ void __launch_bounds__(kRowThreads) run_rows(const __grid_constant__ RowWork p) {
  let_next_begin();
  wait_for_last();
  const int number = static_cast<int>(blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32);
  if (number >= p.rows * p.groups) return;  // a whole warp
  Operation::run(p, {number / p.groups, number % p.groups, static_cast<int>(threadIdx.x % 32)});
}

using RowKernel = void (*)(RowWork);

// The kernel of each operation, by its number.
template <std::size_t... kNumbers>
inline RowKernel row_kernel(int number, std::index_sequence<kNumbers...>) {
  constexpr RowKernel kKernels[] = {run_rows<std::tuple_element_t<kNumbers, RowOperations>>...};
  return kKernels[number];
}
inline RowKernel row_kernel(int number) {
  return row_kernel(number, std::make_index_sequence<kRowOperations>());
}

#endif

}  // namespace pepnet::cuda
