// The epilogue of a tile of sums while it is in the first-level cache: bias, activation, gate and rounding.
//
// The sums pass through a buffer of at most 3 KiB on the stack, so that one inner loop serves every epilogue;
// the tile and what it is multiplied with are read once, the result is written once.
#pragma once

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

template <Epilogue E>
void finish_as(const Product& product, const TileView& tile, const float* factors,
               std::size_t factor_stride) {
  const PackedMatrix& w = *product.main.w;
  const Vec gamma = splat(product.gamma);
  for (std::size_t r = 0; r < tile.rows; ++r) {
    const std::size_t row = tile.row + r;
    for (std::size_t p = 0; p < tile.panels; ++p) {
      const std::size_t begin = (tile.panel + p) * kPanel;
      for (std::size_t v = 0; v < kVecs; ++v) {
        const std::size_t column = begin + v * kLanes;
        const std::size_t left = column < w.out ? w.out - column : 0;
        Vec x = load(tile.sums + r * tile.stride + p * kPanel + v * kLanes) + load(w.bias + column);
        if constexpr (E == Epilogue::relu || E == Epilogue::relu_times) x = relu(x);
        if constexpr (E == Epilogue::gate || E == Epilogue::gate_times) x = gamma * sigmoid(x);
        if constexpr (E == Epilogue::gate_times || E == Epilogue::relu_times) {
          x = x * load_up_to(factors + r * factor_stride + column, left);
        }
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

// `gates`: what finish_gate left, for relu_gated only.
inline void finish(const Product& product, const TileView& tile, const TileView& gates) {
  using enum Epilogue;
  constexpr void (*kFinish[])(const Product&, const TileView&, const float*, std::size_t) = {
      finish_as<linear>,     finish_as<relu>,       finish_as<gate>,
      finish_as<gate_times>, finish_as<relu_times>, finish_as<relu_times>};
  static_assert(linear == Epilogue{0} && relu == Epilogue{1} && gate == Epilogue{2} &&
                gate_times == Epilogue{3} && relu_times == Epilogue{4} && relu_gated == Epilogue{5} &&
                sizeof(kFinish) == 6 * sizeof(kFinish[0]));
  const bool gated = product.epilogue == relu_gated;
  const float* const mul = product.mul == nullptr ? nullptr : product.mul + tile.row * product.mul_stride;
  kFinish[static_cast<std::size_t>(product.epilogue)](product, tile,
                                                      gated ? gates.sums - tile.panel * kPanel : mul,
                                                      gated ? gates.stride : product.mul_stride);
}

}  // namespace
}  // namespace pepnet
