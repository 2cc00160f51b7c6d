// The inner loop where a register is a tile: 16 rows of 64 bytes, multiplied as matrices.
//
// A panel's 16 lines are one tile of weights as they lie, and 64 bytes of 16 rows of activations are the tile
// to multiply it with, as they lie too. Of the eight tiles, four are sums: 2 x 2 (32 rows, 2 panels), where
// each tile that is loaded is used twice, or 1 x 4 for up to 16 rows, which take no more instructions than
// one row does.
//
// What the machine does is behind `Tiles`: isa/amx.cc has the instructions; the tests have a plain reading of
// the manual, since few machines have tiles.
#pragma once

#include <type_traits>

#include "dense/generic/product.h"

namespace pepnet {
namespace {

inline constexpr std::size_t kTileRows = 16;
inline constexpr std::size_t kTileBytes = 1024;

// What LDTILECFG reads (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18).
struct TileConfig {
  std::uint8_t palette;  // 1: eight tiles of at most 16 rows of 64 bytes
  std::uint8_t start_row;
  std::uint8_t reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// f(0), …, f(N - 1), as types: tiles are named in the instruction, not in a register.
template <std::size_t N, class F>
inline void each(F f) {
  if constexpr (N > 0) {
    each<N - 1>(f);
    f(std::integral_constant<std::size_t, N - 1>{});
  }
}

// Tiles: static configure(config), release(), and for tiles named by number zero<T>(), load<T>(from, stride),
// store<T>(to, stride) and multiply_add<C, A, B>(), strides in bytes.
template <class Tiles, bool Integer>
class TileKernel {
 public:
  static constexpr std::size_t kRows = 2 * kTileRows;
  static constexpr bool kInteger = Integer;
  static constexpr std::size_t kTileFloats = kRows * 2 * kPanel;
  static constexpr std::size_t panels_for(std::size_t rows) { return rows <= kTileRows ? 4 : 2; }
  // Whole tiles first: tiles of another height are another configuration, which takes hundreds of cycles.
  static constexpr std::size_t tile_begin(std::size_t i, std::size_t, std::size_t rows) {
    return i * kRows < rows ? i * kRows : rows;
  }

  TileKernel() = default;
  TileKernel(const TileKernel&) = delete;
  TileKernel& operator=(const TileKernel&) = delete;
  ~TileKernel() {
    if (configured_ > 0) Tiles::release();
  }

  void run(const Operands& operands, const TileView& tile, Ahead ahead) {
    if (tile.rows != configured_) configure(tile.rows);
    if (tile.rows > kTileRows) {
      return tile.panels == 2 ? multiply<2, 2>(operands, tile, ahead) : multiply<2, 1>(operands, tile, ahead);
    }
    if (tile.panels == 4) return multiply<1, 4>(operands, tile, ahead);
    return tile.panels == 2 ? multiply<1, 2>(operands, tile, ahead) : multiply<1, 1>(operands, tile, ahead);
  }

 private:
  // Steps of weights asked for before they are multiplied, on their way from L2 to L1.
  static constexpr std::size_t kLead = 2;

  // Sums are tiles 0 to 3. With two rows of tiles, activations are 4 and 5 and weights 6 and 7; with one,
  // they are 4 and 5 to 7.
  static constexpr std::size_t sums_at(std::size_t high, std::size_t panels, std::size_t p) {
    return high * panels + p;
  }
  static constexpr std::size_t weights_at(std::size_t tall, std::size_t p) {
    return tall == 2 ? 6 + p : 5 + p % 3;
  }

  void configure(std::size_t rows) {
    TileConfig config{};
    config.palette = 1;
    const bool tall = rows > kTileRows;
    const auto last = static_cast<std::uint8_t>(tall ? rows - kTileRows : rows);
    for (std::size_t t = 0; t < 8; ++t) {
      config.row_bytes[t] = 64;
      config.rows[t] = kTileRows;
    }
    for (std::size_t t = tall ? 2 : 0; t < 4; ++t) config.rows[t] = last;
    config.rows[tall ? 5 : 4] = last;
    Tiles::configure(config);
    configured_ = rows;
  }

  template <std::size_t Tall, std::size_t P>
  static void multiply(const Operands& operands, const TileView& tile, Ahead ahead) {
    // With two rows of tiles and one panel, the second row's sums are those configured for it: tile 2.
    constexpr std::size_t kColumns = Tall == 2 ? 2 : P;
    const PackedMatrix& w = *operands.w;
    const std::size_t w_stride = panel_bytes(w);
    const std::size_t depth = k_multiple(Integer ? Precision::int8 : Precision::bf16);
    const std::size_t skipped = operands.k_begin / depth;
    const std::size_t steps = w.in / depth - skipped;
    const std::size_t a_stride = operands.a.stride;
    const char* a = static_cast<const char*>(operands.a.data) + tile.row * a_stride + skipped * 64;
    const char* from[P];
    for (std::size_t p = 0; p < P; ++p) {
      from[p] = static_cast<const char*>(w.data) + (tile.panel + p) * w_stride + skipped * kTileBytes;
    }
    const float* const init = operands.init == nullptr ? nullptr : operands.init + tile.panel * kPanel;
    each<Tall>([&](auto i) {
      each<P>([&](auto p) {
        constexpr std::size_t kSums = sums_at(i.value, kColumns, p.value);
        if (init == nullptr) {
          Tiles::template zero<kSums>();
        } else {
          Tiles::template load<kSums>(init + p.value * kPanel, 0);  // every row the same
        }
      });
    });
    const std::size_t lines = steps == 0 ? 0 : (ahead.lines + steps - 1) / steps;
    for (std::size_t s = 0; s < steps; ++s, a += 64) {
      for (std::size_t i = 0; i < lines; ++i, ahead.from += 64) prefetch(ahead.from);
      each<Tall>(
          [&](auto i) { Tiles::template load<4 + i.value>(a + i.value * kTileRows * a_stride, a_stride); });
      each<P>([&](auto p) {
        constexpr std::size_t kWeights = weights_at(Tall, p.value);
        const char* const line = from[p.value];
        from[p.value] += kTileBytes;
        for (std::size_t i = 0; i < kTileRows; ++i)
          __builtin_prefetch(line + kLead * kTileBytes + i * 64, 0, 3);
        Tiles::template load<kWeights>(line, 64);
        each<Tall>([&](auto i) {
          Tiles::template multiply_add<sums_at(i.value, kColumns, p.value), 4 + i.value, kWeights>();
        });
      });
    }
    each<Tall>([&](auto i) {
      each<P>([&](auto p) {
        Tiles::template store<sums_at(i.value, kColumns, p.value)>(
            tile.sums + i.value * kTileRows * tile.stride + p.value * kPanel, tile.stride * sizeof(float));
      });
    });
  }

  std::size_t configured_ = 0;  // rows
};

}  // namespace
}  // namespace pepnet
