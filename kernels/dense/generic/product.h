// The loops around the tile: groups of panels outside, tiles of rows inside.
//
// A group of panels comes from L3 or memory once per call and stays in L2 while all row tiles pass over it;
// the activations of a row block, a few hundred kilobytes, stay in L2 for the whole call.
#pragma once

#include "dense/generic/epilogue.h"
#include "dense/generic/tile.h"

namespace pepnet {
namespace {

// A kernel has: kRows, the most rows of a tile; tile_begin(i, tiles, rows), where tile i begins;
// panels_for(rows), how many panels, a power of two, a tile of so many rows takes at once; kTileFloats, the
// most sums of a tile; kInteger; and run(operands, tile, ahead), which fills `tile` with sums. There is one
// for the length of a call.
template <class Kernel>
void product_with(const Product& product) {
  alignas(64) float sums[Kernel::kTileFloats];
  alignas(64) float gate_sums[Kernel::kTileFloats];
  const bool gated = product.factor == Factor::gated;
  if (product.rows == 0) return;
  Kernel kernel;
  const std::size_t tiles = (product.rows + Kernel::kRows - 1) / Kernel::kRows;
  const std::size_t widest = Kernel::panels_for(product.rows < Kernel::kRows ? product.rows : Kernel::kRows);
  const std::size_t bytes = panel_bytes(*product.main.w);
  bool upwards = false;
  for (std::size_t panel = product.panel_begin; panel < product.panel_end;) {
    std::size_t panels = widest;
    while (panel + panels > product.panel_end) panels /= 2;
    // The group after this one, while it is computed: one share for each row tile.
    std::size_t following = product.panel_end - panel - panels;
    if (following > widest) following = widest;
    Ahead ahead{static_cast<const char*>(product.main.w->data) + (panel + panels) * bytes, 0};
    if (tiles > 1) ahead.lines = (following * bytes / 64 + tiles - 1) / tiles;
    for (std::size_t t = 0; t < tiles; ++t) {
      // Every other group begins with the tile that the one before ended with: its rows are near, and so is
      // its shape.
      const std::size_t i = upwards ? tiles - 1 - t : t;
      const std::size_t row = Kernel::tile_begin(i, tiles, product.rows);
      const std::size_t rows = Kernel::tile_begin(i + 1, tiles, product.rows) - row;
      const TileView tile{sums, panels * kPanel, row, rows, panel, panels};
      const TileView gates{gate_sums, panels * kPanel, row, rows, panel, panels};
      if (gated) {
        kernel.run(product.gate, gates, Ahead{nullptr, 0});
        if constexpr (Kernel::kInteger) rescale(product.gate, gates);
        finish_gate(product, gates);
      }
      kernel.run(product.main, tile, ahead);
      if constexpr (Kernel::kInteger) rescale(product.main, tile);
      finish(product, tile, gates);
      ahead.from += ahead.lines * 64;
    }
    upwards = !upwards;
    panel += panels;
  }
}

// A kernel made of `tile_kernel` for up to Rows x Panels. Few rows take up to Wide panels, as long as rows x
// panels is at most Most: they need as many independent sums to hide the latency of a multiply-add.
template <class Step, std::size_t Rows, std::size_t Panels, std::size_t Wide,
          std::size_t Most = Rows * Panels>
struct RegisterKernel {
  static constexpr std::size_t kRows = Rows;
  static constexpr bool kInteger = Step::kInteger;
  static constexpr std::size_t kTileFloats = (Rows * Panels > Most ? Rows * Panels : Most) * kPanel;
  // As even as can be.
  static constexpr std::size_t tile_begin(std::size_t i, std::size_t tiles, std::size_t rows) {
    return i * rows / tiles;
  }
  static constexpr std::size_t panels_for(std::size_t rows) {
    std::size_t panels = Wide;
    while (panels > Panels && rows * panels > Most) panels /= 2;
    return panels;
  }

  static void run(const Operands& operands, const TileView& tile, Ahead ahead) {
    const PackedMatrix& w = *operands.w;
    const std::size_t step = step_of(w.precision);
    const std::size_t skipped = operands.k_begin / step;
    const char* const a =
        static_cast<const char*>(operands.a.data) + tile.row * operands.a.stride + skipped * Step::kBytes;
    const char* const panel = static_cast<const char*>(w.data) + tile.panel * panel_bytes(w) + skipped * 64;
    const float* const init = operands.init == nullptr ? nullptr : operands.init + tile.panel * kPanel;
    at_rows<1>(tile, a, operands.a.stride, panel, panel_bytes(w), w.in / step - skipped, init, ahead);
  }

 private:
  using Function = void (*)(const char*, std::size_t, const char*, std::size_t, std::size_t, const float*,
                            Ahead, float*);

  template <std::size_t R>
  static void at_rows(const TileView& tile, const char* a, std::size_t a_stride, const char* w,
                      std::size_t w_stride, std::size_t steps, const float* init, Ahead ahead) {
    if constexpr (R < Rows) {
      if (tile.rows > R) return at_rows<R + 1>(tile, a, a_stride, w, w_stride, steps, init, ahead);
    }
    at_panels<R, panels_for(R)>(tile.panels)(a, a_stride, w, w_stride, steps, init, ahead, tile.sums);
  }

  template <std::size_t R, std::size_t P>
  static Function at_panels(std::size_t panels) {
    if constexpr (P > 1) {
      if (panels < P) return at_panels<R, P / 2>(panels);
    }
    return tile_kernel<Step, R, P>;
  }
};

}  // namespace
}  // namespace pepnet
