// The tile instructions as Intel's manual writes them down (Software Developer's Manual, volume 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TDPBF16PS, TDPBUSD), so that the kernels around them run on any CPU. What
// would be a fault there is a failed check here.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "check.h"
#include "dense/generic/tiles.h"

namespace pepnet {
namespace {

struct TileState {
  bool configured = false;
  TileConfig config{};
  unsigned char tile[8][16][64]{};
  std::uint64_t configurations = 0, releases = 0;
};
thread_local TileState state;

struct EmulatedTiles {
  static void configure(const TileConfig& config) {
    CHECK(config.palette == 1 && config.start_row == 0);
    for (const std::uint8_t byte : config.reserved) CHECK(byte == 0);
    for (std::size_t t = 0; t < 16; ++t) {
      CHECK(config.row_bytes[t] <= 64 && config.rows[t] <= 16);
      CHECK((config.row_bytes[t] == 0) == (config.rows[t] == 0));
      CHECK(t < 8 || config.rows[t] == 0);
    }
    state.config = config;
    state.configured = true;
    std::memset(state.tile, 0, sizeof(state.tile));
    ++state.configurations;
  }
  static void release() {
    CHECK(state.configured);
    state.configured = false;
    ++state.releases;
  }

  template <std::size_t T>
  static void zero() {
    zero_tile(T);
  }
  template <std::size_t T>
  static void load(const void* from, std::size_t stride) {
    load_tile(T, static_cast<const char*>(from), stride);
  }
  template <std::size_t T>
  static void store(void* to, std::size_t stride) {
    store_tile(T, static_cast<char*>(to), stride);
  }

 protected:
  static void used(std::size_t t) { CHECK(state.configured && state.config.rows[t] > 0); }

  static void zero_tile(std::size_t t) {
    used(t);
    std::memset(state.tile[t], 0, sizeof(state.tile[t]));
  }
  // Rows and bytes beyond those configured become zero.
  static void load_tile(std::size_t t, const char* from, std::size_t stride) {
    zero_tile(t);
    for (std::size_t r = 0; r < state.config.rows[t]; ++r) {
      std::memcpy(state.tile[t][r], from + r * stride, state.config.row_bytes[t]);
    }
  }
  static void store_tile(std::size_t t, char* to, std::size_t stride) {
    used(t);
    for (std::size_t r = 0; r < state.config.rows[t]; ++r) {
      std::memcpy(to + r * stride, state.tile[t][r], state.config.row_bytes[t]);
    }
  }

  static void check_shapes(std::size_t c, std::size_t a, std::size_t b) {
    CHECK(c != a && a != b && c != b);
    used(c);
    used(a);
    used(b);
    CHECK(state.config.rows[c] == state.config.rows[a]);
    CHECK(state.config.row_bytes[c] == state.config.row_bytes[b]);
    CHECK(state.config.row_bytes[a] == 4 * state.config.rows[b]);
    CHECK(state.config.row_bytes[c] % 4 == 0);
  }

  template <class T>
  static T at(std::size_t t, std::size_t row, std::size_t i) {
    T value;
    std::memcpy(&value, state.tile[t][row] + i * sizeof(T), sizeof(T));
    return value;
  }
};

// Denormals are zero, read and written.
inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x; }

struct EmulatedPairTiles : EmulatedTiles {
  template <std::size_t C, std::size_t A, std::size_t B>
  static void multiply_add() {
    multiply_tiles(C, A, B);
  }

 private:
  static void multiply_tiles(std::size_t c, std::size_t a, std::size_t b) {
    check_shapes(c, a, b);
    for (std::size_t m = 0; m < state.config.rows[c]; ++m) {
      float sums[2][16]{};  // of even and of odd values of k
      for (std::size_t k = 0; k < state.config.row_bytes[a] / 4U; ++k) {
        for (std::size_t n = 0; n < state.config.row_bytes[c] / 4U; ++n) {
          for (std::size_t i = 0; i < 2; ++i) {
            sums[i][n] = flushed(std::fma(value(a, m, 2 * k + i), value(b, k, 2 * n + i), sums[i][n]));
          }
        }
      }
      for (std::size_t n = 0; n < state.config.row_bytes[c] / 4U; ++n) {
        const float pair = flushed(sums[0][n] + sums[1][n]);
        const float sum = flushed(flushed(at<float>(c, m, n)) + pair);
        std::memcpy(state.tile[c][m] + n * 4, &sum, 4);
      }
    }
  }

  static float value(std::size_t t, std::size_t row, std::size_t i) {
    const std::uint32_t bits = std::uint32_t{at<std::uint16_t>(t, row, i)} << 16;
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return flushed(x);
  }
};

struct EmulatedByteTiles : EmulatedTiles {
  template <std::size_t C, std::size_t A, std::size_t B>
  static void multiply_add() {
    multiply_tiles(C, A, B);
  }

 private:
  static void multiply_tiles(std::size_t c, std::size_t a, std::size_t b) {
    check_shapes(c, a, b);
    for (std::size_t m = 0; m < state.config.rows[c]; ++m) {
      for (std::size_t n = 0; n < state.config.row_bytes[c] / 4U; ++n) {
        auto sum = static_cast<std::uint32_t>(at<std::int32_t>(c, m, n));
        for (std::size_t k = 0; k < state.config.row_bytes[a] / 4U; ++k) {
          for (std::size_t i = 0; i < 4; ++i) {
            const int product = at<std::uint8_t>(a, m, 4 * k + i) * at<std::int8_t>(b, k, 4 * n + i);
            sum += static_cast<std::uint32_t>(product);  // wraps, as the instruction does
          }
        }
        std::memcpy(state.tile[c][m] + n * 4, &sum, 4);
      }
    }
  }
};

}  // namespace
}  // namespace pepnet
