// The one kernel that multiplies. See product.h, and shape.h for how its threads share the work.
#pragma once

#include "cuda/activation.h"
#include "cuda/collective.h"
#include "cuda/product.h"

namespace pepnet::cuda {

// Where a block is in its product.
struct At {
  int row, column, group;
};

// f of a sum.
__device__ __forceinline__ float after(const Product& p, float x, int column) {
  switch (p.epilogue) {
    case Epilogue::linear:
      return x;
    case Epilogue::relu:
      return relu_of(x);
    case Epilogue::gate:
      return gate_of(x, p.gamma);
    default:
      return activated(p.function, x, p.alpha, p.slope == nullptr ? 0.0F : p.slope[column]);
  }
}

// What is multiplied with four columns of a row, and what is added to them.
struct Factors {
  Four times, plus;
};

// Writes four columns of a row. x is of a gated product both sides multiplied, of others the sum.
template <bool kGated>
__device__ __forceinline__ void finish(const Product& p, int row, int column, int group, const Four& x,
                                       const Factors& factors) {
  const int used =
      p.used_by_whole == nullptr ? p.used : column / kWhole * kWhole + p.used_by_whole[column / kWhole];
  Four value = x;
  PEPNET_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (!kGated) {
      value.of[i] = after(p, x.of[i], column + i);
      if (p.times.at.first != nullptr) value.of[i] *= factors.times.of[i];
    }
    if (p.plus.at.first != nullptr) value.of[i] += factors.plus.of[i];
    if (column + i >= used) value.of[i] = 0.0F;
  }
  write(p.out.at, row, group * p.out.group + column, value);
  if (p.also.at.first != nullptr) write(p.also.at, row, group * p.also.group + column, value);
}

// A thread's part of what is copied of the rows (zeros past the last) or of the weights (zeros past the last
// column): pieces of 16 bytes, kInLine of them a line of a stage.
template <Precision kPrecision, Tile kTile, bool kRows>
struct Copies {
  using T = Number<kPrecision>;
  static constexpr Shape kShape = shape_of(kPrecision, kTile);
  static constexpr int kLines = kRows ? kShape.rows : kShape.weight_lines(),
                       kInLine = (kRows ? kShape.words() : kShape.weight_words()) / 4,
                       kPieces = kLines * kInLine / kShape.threads;
  static_assert(kPieces * kShape.threads == kLines * kInLine);
  static constexpr bool kByColumn = kPrecision == Precision::bf16;  // of weights
  const std::uint32_t* from[extent(kPieces)];
  bool there[extent(kPieces)];
  std::size_t step;  // words from one step to the next

  __device__ __forceinline__ static int line(int i) { return piece(i) / kInLine; }
  __device__ __forceinline__ static int word(int i) { return piece(i) % kInLine * 4; }
  __device__ __forceinline__ static int piece(int i) {
    return i * kShape.threads + static_cast<int>(threadIdx.x);
  }

  __device__ __forceinline__ void begin(const Product& p, const Side& side, const At& at) {
    const auto group = static_cast<std::size_t>(at.group);
    PEPNET_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      if constexpr (kRows) {
        const int row = at.row + line(i);
        there[i] = row < p.rows;
        const T* const first =
            static_cast<const T*>(side.a.first) + group * static_cast<std::size_t>(side.a_group) +
            static_cast<std::size_t>(there[i] ? row : 0) * static_cast<std::size_t>(side.a.stride);
        from[i] = reinterpret_cast<const std::uint32_t*>(first) + word(i);
      } else {
        const int k = kByColumn ? 2 * word(i) : line(i), column = at.column + (kByColumn ? line(i) : word(i));
        there[i] = column < p.columns;
        const T* const first = static_cast<const T*>(side.w) + group * side.w_group;
        from[i] = reinterpret_cast<const std::uint32_t*>(
            first + packed_at(kPrecision, k, there[i] ? column : 0, p.columns));
      }
    }
    step = static_cast<std::size_t>(kShape.words()) * (kRows ? 1 : static_cast<std::size_t>(p.columns));
  }
  // Begins to copy a step to the lines of a stage.
  __device__ __forceinline__ void next(Stages<kPrecision, kTile>& stages, int stage) {
    PEPNET_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      std::uint32_t* const to =
          kRows ? &stages.in.a[stage][line(i)][word(i)] : &stages.in.w[stage][line(i)][word(i)];
      copy_later(to, from[i], there[i]);
      from[i] += step;
    }
  }
};

template <Precision kPrecision, Tile kTile>
struct Sums;

// A thread's own_rows × own_columns sums, in pieces of up to 4 × 4 that lie apart: what the threads of a warp
// read together then lies side by side.
template <Tile kTile>
struct Sums<Precision::fp32, kTile> {
  static constexpr Shape kShape = shape_of(Precision::fp32, kTile);
  static constexpr int kRows = kShape.own_rows, kColumns = kShape.own_columns;
  static constexpr int kTall = kRows < 4 ? kRows : 4, kWide = kColumns < 4 ? kColumns : 4;
  float sum[extent(kRows)][extent(kColumns)] = {};

  __device__ __forceinline__ static int row(int i) {
    const int y = static_cast<int>(threadIdx.x) / (kShape.columns / kColumns);
    return i / kTall * (kShape.rows / (kRows / kTall)) + y * kTall + i % kTall;
  }
  __device__ __forceinline__ static int column(int j) {
    const int x = static_cast<int>(threadIdx.x) % (kShape.columns / kColumns);
    return j / kWide * (kShape.columns / (kColumns / kWide)) + x * kWide + j % kWide;
  }

  __device__ __forceinline__ void add(const Stages<Precision::fp32, kTile>& stages, int stage) {
    // Four of k at once: a row's are one access.
    for (int k = 0; k < kShape.step; k += 4) {
      Words<4> a[extent(kRows)];
      PEPNET_UNROLL
      for (int i = 0; i < kRows; ++i) a[i] = words_at<4>(&stages.in.a[stage][row(i)][k]);
      PEPNET_UNROLL
      for (int each = 0; each < 4; ++each) {
        float w[extent(kColumns)];
        PEPNET_UNROLL
        for (int j = 0; j < kColumns; j += kWide) {
          const auto words = words_at<extent(kWide)>(&stages.in.w[stage][k + each][column(j)]);
          PEPNET_UNROLL
          for (int l = 0; l < kWide; ++l) w[j + l] = words.number(l);
        }
        PEPNET_UNROLL
        for (int i = 0; i < kRows; ++i) {
          const float left = a[i].number(each);
          PEPNET_UNROLL
          for (int j = 0; j < kColumns; ++j) sum[i][j] += left * w[j];
        }
      }
    }
  }
  // use(row, column, i, j) for each sum.
  template <class Use>
  __device__ __forceinline__ static void each(const Use& use) {
    PEPNET_UNROLL
    for (int i = 0; i < kRows; ++i) {
      PEPNET_UNROLL
      for (int j = 0; j < kColumns; ++j) use(row(i), column(j), i, j);
    }
  }
};

// A lane's share of a warp's own_rows × own_columns sums: see `multiply_add`.
template <Tile kTile>
struct Sums<Precision::bf16, kTile> {
  static constexpr Shape kShape = shape_of(Precision::bf16, kTile);
  static constexpr int kDown = kShape.own_rows / 16, kAcross = kShape.own_columns / 8;
  float sum[extent(kDown * kAcross)][4] = {};

  __device__ __forceinline__ static int warp_row() {
    return static_cast<int>(threadIdx.x) / 32 / (kShape.columns / kShape.own_columns) * kShape.own_rows;
  }
  __device__ __forceinline__ static int warp_column() {
    return static_cast<int>(threadIdx.x) / 32 % (kShape.columns / kShape.own_columns) * kShape.own_columns;
  }

  __device__ __forceinline__ void add(const Stages<Precision::bf16, kTile>& stages, int stage) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = warp_row() + lane % 16, right = lane / 16 * 4;  // which row of a a lane names
    const int column = warp_column() + lane / 16 * 8 + lane % 8, below = lane / 8 % 2 * 4;
    PEPNET_UNROLL
    for (int k = 0; k < kShape.words(); k += 8) {  // pairs
      std::uint32_t a[extent(kDown)][4], b[extent(kAcross)][2];
      PEPNET_UNROLL
      for (int i = 0; i < kDown; ++i) read_blocks(a[i], &stages.in.a[stage][row + 16 * i][k + right]);
      if constexpr (kAcross == 1) {
        read_blocks(b[0], &stages.in.w[stage][warp_column() + lane % 8][k + below]);
      } else {
        PEPNET_UNROLL
        for (int j = 0; j < kAcross; j += 2) {
          std::uint32_t both[4];
          read_blocks(both, &stages.in.w[stage][column + 8 * j][k + below]);
          b[j][0] = both[0];
          b[j][1] = both[1];
          b[j + 1][0] = both[2];
          b[j + 1][1] = both[3];
        }
      }
      PEPNET_UNROLL
      for (int i = 0; i < kDown; ++i) {
        PEPNET_UNROLL
        for (int j = 0; j < kAcross; ++j) multiply_add(sum[i * kAcross + j], a[i], b[j]);
      }
    }
  }
  template <class Use>
  __device__ __forceinline__ static void each(const Use& use) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = warp_row() + lane / 4, column = warp_column() + lane % 4 * 2;
    PEPNET_UNROLL
    for (int i = 0; i < kDown; ++i) {
      PEPNET_UNROLL
      for (int j = 0; j < kAcross; ++j) {
        PEPNET_UNROLL
        for (int r = 0; r < 4; ++r) use(row + 16 * i + r / 2 * 8, column + 8 * j + r % 2, i * kAcross + j, r);
      }
    }
  }
};

// grid: the blocks of all products, one after another; of each rows go first, then columns, then groups.
template <Precision kPrecision, Tile kTile, bool kGated>
__global__ void __launch_bounds__(shape_of(kPrecision, kTile).threads,
                                  (shape_of(kPrecision, kTile).blocks + kGated) / (1 + kGated))
    multiply(const __grid_constant__ Products all) {
  constexpr Shape kShape = shape_of(kPrecision, kTile);
  auto& stages = shared_as<Stages<kPrecision, kTile>>();
  int block = static_cast<int>(blockIdx.x), which = 0;
  while (which + 1 < all.count && block >= all.first[which + 1]) ++which;
  const Product& p = all.of[which];
  block -= all.first[which];
  const int down = (p.rows + kShape.rows - 1) / kShape.rows,
            across = (p.columns + kShape.columns - 1) / kShape.columns;
  const At at{block % down * kShape.rows, block / down % across * kShape.columns, block / down / across};

  // The steps of the gate follow those of the layer in the same pipeline.
  const int layer_steps = p.main.depth / kShape.step;
  const int steps = layer_steps + (kGated ? p.gate.depth / kShape.step : 0);
  Copies<kPrecision, kTile, false> weights;
  Copies<kPrecision, kTile, true> rows;
  weights.begin(p, p.main, at);
  rows.begin(p, p.main, at);
  const auto copy = [&](auto& what, int step, int stage) {
    if (kGated && step == layer_steps) what.begin(p, p.gate, at);
    what.next(stages, stage);
  };

  // Weights are there before the kernel before this one is done; what it writes is not.
  constexpr int kAhead = kShape.stages - 1;
  for (int step = 0; step < kAhead && step < steps; ++step) copy(weights, step, step);
  let_next_begin();
  wait_for_last();
  for (int step = 0; step < kAhead; ++step) {
    if (step < steps) copy(rows, step, step);
    commit_copies();  // the weights go with the first
  }
  Sums<kPrecision, kTile> layer, gate;
  int stage = 0, free_stage = kAhead;
  const auto advance = [&](int step, Sums<kPrecision, kTile>& sums) {
    wait_for_copies<kAhead - 1>();
    __syncthreads();  // this step's copies are everybody's, and all have left the stage that is free
    if (step + kAhead < steps) {
      copy(weights, step + kAhead, free_stage);
      copy(rows, step + kAhead, free_stage);
    }
    commit_copies();  // empty at the end, so that there are as many groups as steps
    sums.add(stages, stage);
    stage = stage + 1 == kShape.stages ? 0 : stage + 1;
    free_stage = free_stage + 1 == kShape.stages ? 0 : free_stage + 1;
  };
  for (int step = 0; step < layer_steps; ++step) advance(step, layer);
  if constexpr (kGated)
    for (int step = layer_steps; step < steps; ++step) advance(step, gate);
  wait_for_copies<0>();
  __syncthreads();  // all have left the stages

  // Through shared memory, so that threads beside each other write what lies side by side.
  const float* const bias = p.main.bias + at.group * p.main.bias_group;
  const float* const gate_bias = kGated ? p.gate.bias + at.group * p.gate.bias_group : nullptr;
  Sums<kPrecision, kTile>::each([&](int r, int c, int i, int j) {
    float x = layer.sum[i][j];
    if constexpr (kGated) {
      const int column = at.column + c < p.columns ? at.column + c : 0;
      x = after(p, x + bias[column], column) * gate_of(gate.sum[i][j] + gate_bias[column], p.gamma);
    }
    stages.out[r][c] = x;
  });
  __syncthreads();
  constexpr int kPieces = kShape.rows * kShape.columns / 4,
                kTogether = 4;  // whose factors are read before any waits
  const auto place = [&](int piece) {
    return At{piece / (kShape.columns / 4), piece % (kShape.columns / 4) * 4, 0};
  };
  const auto there = [&](int piece) {
    return piece < kPieces && at.row + place(piece).row < p.rows &&
           at.column + place(piece).column < p.columns;
  };
  PEPNET_NO_UNROLL
  for (int begin = static_cast<int>(threadIdx.x); begin < kPieces; begin += kTogether * kShape.threads) {
    Factors factors[kTogether] = {};
    PEPNET_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int piece = begin + i * kShape.threads;
      if (!there(piece)) continue;
      const int row = at.row + place(piece).row, column = at.column + place(piece).column;
      if (!kGated && p.times.at.first != nullptr)
        factors[i].times = read(p.times.at, row, at.group * p.times.group + column);
      if (p.plus.at.first != nullptr)
        factors[i].plus = read(p.plus.at, row, at.group * p.plus.group + column);
    }
    PEPNET_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int piece = begin + i * kShape.threads;
      if (!there(piece)) continue;
      const At to = place(piece);
      Four x = read<float>(stages.out[to.row], static_cast<std::size_t>(to.column));
      if constexpr (!kGated) {
        const Four b = read<float>(bias, static_cast<std::size_t>(at.column + to.column));
        PEPNET_UNROLL
        for (int j = 0; j < 4; ++j) x.of[j] += b.of[j];
      }
      finish<kGated>(p, at.row + to.row, at.column + to.column, at.group, x, factors[i]);
    }
  }
}

}  // namespace pepnet::cuda
