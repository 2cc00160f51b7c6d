// The one kernel that multiplies. See product.h.
#pragma once

#include "cuda/collective.h"
#include "cuda/device.h"
#include "cuda/product.h"

namespace pepnet::cuda {

__device__ __forceinline__ float gate_of(float x, float gamma) {
#ifdef __CUDACC__
  return gamma / (1.0F + __expf(-x));
#else
  return gamma / (1.0F + std::exp(-x));
#endif
}

template <class T>
__device__ __forceinline__ float times_of(const Product<T>& p, int row, int column, int group) {
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(p.times_stride) +
                         static_cast<std::size_t>(group * p.times_group + column);
  return p.times_floats ? static_cast<const float*>(p.times)[at] : widen(static_cast<const T*>(p.times)[at]);
}

__device__ __forceinline__ float relu_of(float x) { return x < 0.0F ? 0.0F : x; }  // NaN stays

template <class T>
__device__ __forceinline__ float value_of(const Product<T>& p, int row, int column, int group, float x,
                                          float y) {
  switch (p.epilogue) {
    case Epilogue::relu:
      return relu_of(x);
    case Epilogue::gate:
      return gate_of(x, p.gamma);
    case Epilogue::gate_times:
      return gate_of(x, p.gamma) * times_of(p, row, column, group);
    case Epilogue::relu_times:
      return relu_of(x) * times_of(p, row, column, group);
    case Epilogue::relu_gated:
      return relu_of(x) * gate_of(y, p.gamma);
    default:
      return x;
  }
}

template <class T>
__device__ __forceinline__ void finish(const Product<T>& p, int row, int column, int group, float x,
                                       float y) {
  if (row >= p.rows) return;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(p.out_stride) +
                         static_cast<std::size_t>(group * p.out_group + column);
  const int used =
      p.used_by_tile == nullptr ? p.used : column / kTile * kTile + p.used_by_tile[column / kTile];
  const float value = column < used ? value_of(p, row, column, group, x, y) : 0.0F;
  if (p.out_floats) {
    static_cast<float*>(p.out)[at] = value;
  } else {
    static_cast<T*>(p.out)[at] = narrow<T>(value);
  }
}

// Begins to copy a step of both matrices into `stage`.
template <class T, class Shared>
__device__ __forceinline__ void load_step(Shared& tiles, const Product<T>& p, const Side<T>& side, int stage,
                                          int k, int row, int column, int group) {
  constexpr int kThreads = Tiles<T>::kThreads;
  constexpr int kPiece = 16 / static_cast<int>(sizeof(T));  // elements of one copy
  const int thread = static_cast<int>(threadIdx.x);
  const T* const a = side.a + static_cast<std::size_t>(group) * static_cast<std::size_t>(side.a_group);
  for (int piece = thread; piece < kTile * kStep / kPiece; piece += kThreads) {
    const int r = piece / (kStep / kPiece), at = piece % (kStep / kPiece) * kPiece;
    const bool there = row + r < p.rows;
    const std::size_t from = there
                                 ? static_cast<std::size_t>(row + r) * static_cast<std::size_t>(side.stride) +
                                       static_cast<std::size_t>(k + at)
                                 : 0;
    auto* const to = reinterpret_cast<T*>(tiles.a[stage][r]) + at;
    copy_later(to, a + from, there);
  }
  // A packed row is one of k in float32 and two in bf16, a column of it one word.
  constexpr int kRows = kStep * static_cast<int>(sizeof(T)) / 4;
  const auto* const w = reinterpret_cast<const std::uint32_t*>(
      side.w + static_cast<std::size_t>(group) * side.w_group + packed_at<T>(k, column, p.columns));
  for (int piece = thread; piece < kRows * kTile / 4; piece += kThreads) {
    const int r = piece / (kTile / 4), at = piece % (kTile / 4) * 4;
    copy_later(
        &tiles.w[stage][r][at],
        w + static_cast<std::size_t>(r) * static_cast<std::size_t>(p.columns) + static_cast<std::size_t>(at),
        true);
  }
  commit_copies();
}

struct FloatSums {
  float sum[4][4] = {};

  __device__ __forceinline__ void add(const FloatTiles& tiles, int stage) {
    const int x = static_cast<int>(threadIdx.x) % 16 * 4, y = static_cast<int>(threadIdx.x) / 16 * 4;
    for (int k = 0; k < kStep; ++k) {
      float a[4], w[4];
      PEPNET_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = tiles.a[stage][y + i][k];
      PEPNET_UNROLL
      for (int j = 0; j < 4; ++j) w[j] = tiles.w[stage][k][x + j];
      PEPNET_UNROLL
      for (int i = 0; i < 4; ++i) PEPNET_UNROLL
      for (int j = 0; j < 4; ++j) sum[i][j] += a[i] * w[j];
    }
  }
  template <class Use>
  __device__ __forceinline__ static void each(const Use& use) {
    const int x = static_cast<int>(threadIdx.x) % 16 * 4, y = static_cast<int>(threadIdx.x) / 16 * 4;
    PEPNET_UNROLL
    for (int i = 0; i < 4; ++i) PEPNET_UNROLL
    for (int j = 0; j < 4; ++j) use(y + i, x + j, i, j);
  }
};

struct Bf16Sums {
  float sum[8][4] = {};  // [2 blocks of 16 rows × 4 of 8 columns][of a lane]

  __device__ __forceinline__ void add(const Bf16Tiles& tiles, int stage) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int row = warp / 2 * 32 + lane / 4, column = warp % 2 * 32 + lane / 4, t = lane % 4;
    for (int k = 0; k < kStep / 2; k += 8) {  // pairs
      std::uint32_t a[2][4], b[4][2];
      PEPNET_UNROLL
      for (int i = 0; i < 2; ++i) PEPNET_UNROLL
      for (int r = 0; r < 4; ++r) a[i][r] = tiles.a[stage][row + 16 * i + r % 2 * 8][k + t + r / 2 * 4];
      PEPNET_UNROLL
      for (int j = 0; j < 4; ++j) PEPNET_UNROLL
      for (int r = 0; r < 2; ++r) b[j][r] = tiles.w[stage][k + t + r * 4][column + 8 * j];
      PEPNET_UNROLL
      for (int i = 0; i < 2; ++i) PEPNET_UNROLL
      for (int j = 0; j < 4; ++j) multiply_add(sum[i * 4 + j], a[i], b[j]);
    }
  }
  template <class Use>
  __device__ __forceinline__ static void each(const Use& use) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int row = warp / 2 * 32 + lane / 4, column = warp % 2 * 32 + lane % 4 * 2;
    PEPNET_UNROLL
    for (int i = 0; i < 2; ++i) PEPNET_UNROLL
    for (int j = 0; j < 4; ++j) PEPNET_UNROLL
    for (int r = 0; r < 4; ++r) use(row + 16 * i + r / 2 * 8, column + 8 * j + r % 2, i * 4 + j, r);
  }
};

template <class T>
struct SumsOf;
template <>
struct SumsOf<float> {
  using Type = FloatSums;
};
template <>
struct SumsOf<bf16> {
  using Type = Bf16Sums;
};

// Adds one side's product to `sums`. Copies of the next step are under way while one is multiplied.
template <class T, class Shared, class Sums>
__device__ __forceinline__ void accumulate(Shared& tiles, const Product<T>& p, const Side<T>& side, int row,
                                           int column, int group, Sums& sums) {
  load_step(tiles, p, side, 0, 0, row, column, group);
  for (int k = 0, stage = 0; k < side.depth; k += kStep, stage ^= 1) {
    if (k + kStep < side.depth) {
      load_step(tiles, p, side, stage ^ 1, k + kStep, row, column, group);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    sums.add(tiles, stage);
    __syncthreads();  // before the next copies into what was just read
  }
}

// grid: columns / kTile, rows / kTile rounded up, groups.
template <class T, bool kGated>
__global__ void __launch_bounds__(Tiles<T>::kThreads) multiply(const Product<T> p) {
  auto& tiles = shared_as<typename Tiles<T>::Type>();
  const int column = static_cast<int>(blockIdx.x) * kTile, row = static_cast<int>(blockIdx.y) * kTile;
  const int group = static_cast<int>(blockIdx.z);
  using Sums = typename SumsOf<T>::Type;
  Sums main, gate;
  accumulate(tiles, p, p.main, row, column, group, main);
  if constexpr (kGated) accumulate(tiles, p, p.gate, row, column, group, gate);
  const float* const bias = p.main.bias + group * p.main.bias_group + column;
  const float* const gate_bias = kGated ? p.gate.bias + group * p.gate.bias_group + column : nullptr;
  Sums::each([&](int r, int c, int i, int j) {
    const float x = main.sum[i][j] + bias[c];
    const float y = kGated ? gate.sum[i][j] + gate_bias[c] : 0.0F;
    finish(p, row + r, column + c, group, x, y);
  });
}

}  // namespace pepnet::cuda
