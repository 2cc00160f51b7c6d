// The tile instructions as Intel's manual writes them down (Software Developer's Manual, volume 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TDPBF16PS, TDPBUSD), so that the kernels around them run on any CPU. What
// would be a fault there is a failed check here.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "check.h"
#include "generic/tiles.h"

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
    used(T);
    std::memset(state.tile[T], 0, sizeof(state.tile[T]));
  }
  // Rows and bytes beyond those configured become zero.
  template <std::size_t T>
  static void load(const void* from, std::size_t stride) {
    zero<T>();
    for (std::size_t r = 0; r < state.config.rows[T]; ++r) {
      std::memcpy(state.tile[T][r], static_cast<const char*>(from) + r * stride, state.config.row_bytes[T]);
    }
  }
  template <std::size_t T>
  static void store(void* to, std::size_t stride) {
    used(T);
    for (std::size_t r = 0; r < state.config.rows[T]; ++r) {
      std::memcpy(static_cast<char*>(to) + r * stride, state.tile[T][r], state.config.row_bytes[T]);
    }
  }

 protected:
  static void used(std::size_t t) { CHECK(state.configured && state.config.rows[t] > 0); }

  template <std::size_t C, std::size_t A, std::size_t B>
  static void check_shapes() {
    static_assert(C != A && A != B && C != B && C < 8 && A < 8 && B < 8);
    used(C);
    used(A);
    used(B);
    CHECK(state.config.rows[C] == state.config.rows[A]);
    CHECK(state.config.row_bytes[C] == state.config.row_bytes[B]);
    CHECK(state.config.row_bytes[A] == 4 * state.config.rows[B]);
    CHECK(state.config.row_bytes[C] % 4 == 0);
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
    check_shapes<C, A, B>();
    for (std::size_t m = 0; m < state.config.rows[C]; ++m) {
      float sums[2][16]{};  // of even and of odd values of k
      for (std::size_t k = 0; k < state.config.row_bytes[A] / 4U; ++k) {
        for (std::size_t n = 0; n < state.config.row_bytes[C] / 4U; ++n) {
          for (std::size_t i = 0; i < 2; ++i) {
            sums[i][n] = flushed(std::fma(value(A, m, 2 * k + i), value(B, k, 2 * n + i), sums[i][n]));
          }
        }
      }
      for (std::size_t n = 0; n < state.config.row_bytes[C] / 4U; ++n) {
        const float pair = flushed(sums[0][n] + sums[1][n]);
        const float sum = flushed(flushed(at<float>(C, m, n)) + pair);
        std::memcpy(state.tile[C][m] + n * 4, &sum, 4);
      }
    }
  }

 private:
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
    check_shapes<C, A, B>();
    for (std::size_t m = 0; m < state.config.rows[C]; ++m) {
      for (std::size_t n = 0; n < state.config.row_bytes[C] / 4U; ++n) {
        auto sum = static_cast<std::uint32_t>(at<std::int32_t>(C, m, n));
        for (std::size_t k = 0; k < state.config.row_bytes[A] / 4U; ++k) {
          for (std::size_t i = 0; i < 4; ++i) {
            const int product = at<std::uint8_t>(A, m, 4 * k + i) * at<std::int8_t>(B, k, 4 * n + i);
            sum += static_cast<std::uint32_t>(product);  // wraps, as the instruction does
          }
        }
        std::memcpy(state.tile[C][m] + n * 4, &sum, 4);
      }
    }
  }
};

}  // namespace
}  // namespace pepnet
