// The inner loop: R rows times P panels, all accumulators in registers, k ascending.
#pragma once

#include "dense/generic/panel.h"

namespace pepnet {
namespace {

// What one tile reads beside its own operands: cache lines of the panels that come next, on their way to L2.
struct Ahead {
  const char* from;
  std::size_t lines;
};

// Steps between two looks at `Ahead`: enough that the bookkeeping is lost in them.
inline constexpr std::size_t kStride = 8;

// One part of one step. What there is less of, rows or registers of weights, is held in registers.
template <class Step, std::size_t R, std::size_t P>
inline void multiply(const char* a, std::size_t a_stride, const char* w, std::size_t w_stride,
                     std::size_t part, typename Step::Acc (&acc)[R][P * kVecs]) {
  constexpr std::size_t N = P * kVecs;
  if constexpr (R < N) {
    typename Step::Value values[R];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) values[r] = Step::value(a + r * a_stride, part);
#pragma GCC unroll 16
    for (std::size_t n = 0; n < N; ++n) {
      const typename Step::Weights weights = Step::weights(w + n / kVecs * w_stride, n % kVecs, part);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < R; ++r) acc[r][n] = Step::accumulate(acc[r][n], values[r], weights);
    }
  } else {
    typename Step::Weights weights[N];
#pragma GCC unroll 16
    for (std::size_t n = 0; n < N; ++n) {
      weights[n] = Step::weights(w + n / kVecs * w_stride, n % kVecs, part);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      const typename Step::Value value = Step::value(a + r * a_stride, part);
#pragma GCC unroll 16
      for (std::size_t n = 0; n < N; ++n) acc[r][n] = Step::accumulate(acc[r][n], value, weights[n]);
    }
  }
}

// tile[r][p * 16 + lane] gets the sum over k of a[r][k] * w[k][p * 16 + lane], as float32 or int32.
template <class Step, std::size_t R, std::size_t P>
void tile_kernel(const char* a, std::size_t a_stride, const char* w, std::size_t w_stride, std::size_t steps,
                 const float* init, Ahead ahead, float* tile) {
  constexpr std::size_t N = P * kVecs;
  typename Step::Acc acc[R][N];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (std::size_t n = 0; n < N; ++n) {
      acc[r][n] = init == nullptr ? Step::zero() : Step::start(init + n * kLanes);
    }
  }
  const std::size_t looks = (steps + kStride - 1) / kStride;
  const std::size_t lines = looks == 0 ? 0 : (ahead.lines + looks - 1) / looks;
  const char* next = ahead.from;
  for (std::size_t begin = 0; begin < steps; begin += kStride) {
    for (std::size_t i = 0; i < lines; ++i, next += 64) prefetch(next);
    const std::size_t end = begin + kStride < steps ? begin + kStride : steps;
    for (std::size_t k = begin; k < end; ++k) {
#pragma GCC unroll 2
      for (std::size_t part = 0; part < Step::kParts; ++part) {
        multiply<Step, R, P>(a + k * Step::kBytes, a_stride, w + k * 64, w_stride, part, acc);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (std::size_t n = 0; n < N; ++n) Step::keep(tile + r * P * kPanel + n * kLanes, acc[r][n]);
  }
}

}  // namespace
}  // namespace pepnet
