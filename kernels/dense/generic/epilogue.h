// The epilogue of a tile of sums while it is in the first-level cache: bias, activation, gate and rounding.
//
// The sums pass through a buffer of at most 3 KiB on the stack, so that one inner loop serves every epilogue;
// the tile and what it is multiplied with are read once, the result is written once.
#pragma once

#include "dense/generic/activations.h"
#include "dense/generic/math.h"
#include "dense/generic/panel.h"

namespace pepnet {
namespace {

struct TileView {
  float* sums;         // row r at sums + r * stride; int32 where the step is one of integers
  std::size_t stride;  // floats
  std::size_t row, rows;
  std::size_t panel, panels;
};

// Integer sums → float32 in place: scale_r * scale_n * (sum - zero_r * sums_n).
inline void rescale(const Operands& operands, const TileView& tile) {
  const PackedMatrix& w = *operands.w;
  for (std::size_t r = 0; r < tile.rows; ++r) {
    const float row_scale = operands.a.scale[tile.row + r];
    const std::int32_t zero = operands.a.zero[tile.row + r];
    float* const sums = tile.sums + r * tile.stride;
    for (std::size_t c = 0; c < tile.panels * kPanel; ++c) {
      const std::size_t column = tile.panel * kPanel + c;
      std::int32_t sum;
      __builtin_memcpy(&sum, sums + c, sizeof(sum));
      sums[c] = static_cast<float>(sum - zero * w.sums[column]) * (row_scale * w.scale[column]);
    }
  }
}

// The bias and the activation of the call, in place: what is left is linear.
inline void apply_function(const Product& product, const TileView& tile) {
  const Activate activate = activate_of(product.function);
  const std::size_t column = tile.panel * kPanel, columns = tile.panels * kPanel;
  const float* const slope = product.slope == nullptr ? nullptr : product.slope + column;
  for (std::size_t r = 0; r < tile.rows; ++r) {
    float* const sums = tile.sums + r * tile.stride;
    activate(sums, product.main.w->bias + column, columns, product.alpha, slope, sums);
  }
}

template <Epilogue E, bool kTimes>
void finish_as(const Product& product, const TileView& tile, const float* factors,
               std::size_t factor_stride) {
  const PackedMatrix& w = *product.main.w;
  const Vec gamma = splat(product.gamma);
  if constexpr (E == Epilogue::function) apply_function(product, tile);
  for (std::size_t r = 0; r < tile.rows; ++r) {
    const std::size_t row = tile.row + r;
    for (std::size_t p = 0; p < tile.panels; ++p) {
      const std::size_t begin = (tile.panel + p) * kPanel;
      for (std::size_t v = 0; v < kVecs; ++v) {
        const std::size_t column = begin + v * kLanes;
        const std::size_t left = column < w.out ? w.out - column : 0;
        Vec x = load(tile.sums + r * tile.stride + p * kPanel + v * kLanes);
        if constexpr (E != Epilogue::function) x = x + load(w.bias + column);
        if constexpr (E == Epilogue::relu) x = relu(x);
        if constexpr (E == Epilogue::gate) x = gamma * sigmoid(x);
        if constexpr (kTimes) x = x * load_up_to(factors + r * factor_stride + column, left);
        if (product.plus != nullptr)
          x = x + load_up_to(product.plus + row * product.plus_stride + column, left);
        // Padding must be zero whatever came in: zero weights make NaN of an infinity.
        if (left < kLanes) x = keep_first(x, left);
        char* const out = static_cast<char*>(product.out) + row * product.out_stride;
        if (product.out_bf16) {
          store_bf16(reinterpret_cast<std::uint16_t*>(out) + column, x);
        } else {
          store(reinterpret_cast<float*>(out) + column, x);
        }
        if (product.out2 != nullptr) store(product.out2 + row * product.out2_stride + column, x);
      }
    }
  }
}

// gamma * sigmoid(sum + c), in place.
inline void finish_gate(const Product& product, const TileView& tile) {
  const float* const bias = product.gate.w->bias + tile.panel * kPanel;
  for (std::size_t r = 0; r < tile.rows; ++r) {
    float* const sums = tile.sums + r * tile.stride;
    for (std::size_t c = 0; c < tile.panels * kPanel; c += kLanes) {
      store(sums + c, splat(product.gamma) * sigmoid(load(sums + c) + load(bias + c)));
    }
  }
}

// `gates`: what finish_gate left, with Factor::gated.
inline void finish(const Product& product, const TileView& tile, const TileView& gates) {
  using enum Epilogue;
  using Finish = void (*)(const Product&, const TileView&, const float*, std::size_t);
  constexpr Finish kFinish[][2] = {{finish_as<linear, false>, finish_as<linear, true>},
                                   {finish_as<relu, false>, finish_as<relu, true>},
                                   {finish_as<gate, false>, finish_as<gate, true>},
                                   {finish_as<function, false>, finish_as<function, true>}};
  static_assert(linear == Epilogue{0} && relu == Epilogue{1} && gate == Epilogue{2} &&
                function == Epilogue{3});
  const bool gated = product.factor == Factor::gated;
  const float* const mul = product.mul == nullptr ? nullptr : product.mul + tile.row * product.mul_stride;
  kFinish[static_cast<std::size_t>(product.epilogue)][product.factor == Factor::none ? 0 : 1](
      product, tile, gated ? gates.sums - tile.panel * kPanel : mul,
      gated ? gates.stride : product.mul_stride);
}

}  // namespace
}  // namespace pepnet
