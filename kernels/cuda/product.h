// What the kernel that multiplies is given: a layer of all groups at once, with what follows it in the same
// pass.
//
//     out = epilogue(a·w + b, u·v + c)
//
// A gated layer computes both products in one block and keeps both sums in registers, so that the gate's
// tensor, as large as the layer's output, never reaches memory. Groups are experts, or tasks, or just one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/numbers.h"

namespace pepnet::cuda {

enum class Epilogue : int {
  none,        // x
  relu,        // max(x, 0)
  gate,        // γσ(x)
  gate_times,  // γσ(x) ⊙ m
  relu_times,  // max(x, 0) ⊙ m
  relu_gated,  // max(x, 0) ⊙ γσ(y)
};

constexpr int kTile = 64;  // rows and columns of a block; widths are padded to a multiple
constexpr int kStep = 32;  // of k that is in shared memory at once; depths are padded to a multiple

// Where a weight is in a packed matrix of `columns` columns. bf16 lies in pairs of k, the words that the
// tensor cores take.
template <class T>
PEPNET_BOTH std::size_t packed_at(int k, int n, int columns) {
  return static_cast<std::size_t>(k) * static_cast<std::size_t>(columns) + static_cast<std::size_t>(n);
}
template <>
PEPNET_BOTH std::size_t packed_at<bf16>(int k, int n, int columns) {
  return (static_cast<std::size_t>(k / 2) * static_cast<std::size_t>(columns) + static_cast<std::size_t>(n)) *
             2 +
         static_cast<std::size_t>(k % 2);
}

// One side of a product for all groups. Of a group's share the distance is in elements, 0 where all have the
// same.
template <class T>
struct Side {
  const T* a;  // [rows, stride]
  int stride, a_group;
  const T* w;  // packed, [depth, columns] of each group
  std::size_t w_group;
  const float* bias;  // [columns]
  int bias_group;
  int depth;  // a multiple of kStep; what is padding is zeros in a and w
};

template <class T>
struct Product {
  Side<T> main, gate;  // `gate` for relu_gated only
  Epilogue epilogue;
  float gamma;
  int rows;                 // of a, m and out
  int columns;              // of a group, a multiple of kTile
  int used;                 // of these; the others become zeros, whatever is in the row
  const int* used_by_tile;  // the same for each kTile columns, where several layers lie side by side; or null
  const void* times;        // m: [rows, times_stride]
  int times_stride, times_group;
  bool times_floats;  // m is float32, whatever T is
  void* out;          // [rows, out_stride]
  int out_stride, out_group;
  bool out_floats;
};

// float32: 256 threads, each with 4×4 sums.
struct FloatTiles {
  float a[2][kTile][kStep + 4];  // a row apart by 36 words: the rows of a warp's reads lie in other banks
  float w[2][kStep][kTile];
};

// bf16: 4 warps, each with 32×32 sums.
struct Bf16Tiles {
  std::uint32_t a[2][kTile][kStep / 2 + 4];
  std::uint32_t w[2][kStep / 2][kTile + 8];
};

template <class T>
struct Tiles;
template <>
struct Tiles<float> {
  using Type = FloatTiles;
  static constexpr int kThreads = 256;
};
template <>
struct Tiles<bf16> {
  using Type = Bf16Tiles;
  static constexpr int kThreads = 128;
};

}  // namespace pepnet::cuda
