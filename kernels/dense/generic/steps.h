// One step of k: what is loaded from a panel's cache line, and how it is multiplied into the accumulators.
//
// A step has: Acc, one register of accumulators; Weights, one register's worth of columns; Value, what one
// row contributes, repeated over the lanes; kBytes, the bytes of a row's activations in one step. Where a
// line has to be unpacked it is taken in kParts parts, one after the other, so that each needs few registers.
#pragma once

#include "dense/generic/panel.h"

namespace pepnet {
namespace {

// Sums in float32.
struct FloatSums {
  using Acc = Vec;
  static constexpr bool kInteger = false;
  static Acc start(const float* init) { return load(init); }
  static Acc zero() { return splat(0.0F); }
  static void keep(float* tile, Acc acc) { store(tile, acc); }
};

// Sums in int32, of four bytes of activations a step.
struct IntegerSums {
  using Acc = Integers;
  static constexpr std::size_t kBytes = 4;
  static constexpr bool kInteger = true;
  static Acc start(const float*) { return Acc{}; }
  static Acc zero() { return Acc{}; }
  static void keep(float* tile, Acc acc) { __builtin_memcpy(tile, &acc, sizeof(acc)); }
};

struct Float32Step : FloatSums {
  using Weights = Vec;
  using Value = Vec;
  static constexpr std::size_t kBytes = 4;
  static constexpr std::size_t kParts = 1;
  static Weights weights(const char* line, std::size_t v, std::size_t) {
    return load(reinterpret_cast<const float*>(line) + v * kLanes);
  }
  static Value value(const char* a, std::size_t) { return splat(load_as<float>(a)); }
  static Acc accumulate(Acc acc, Value a, Weights w) { return fma(a, w, acc); }
};

// bf16 weights widened to float32, activations in float32: half the bytes of weights, no rounded activations.
struct WidenedStep : FloatSums {
  using Weights = Vec;
  using Value = Vec;
  static constexpr std::size_t kBytes = 8;
  static constexpr std::size_t kParts = 2;
  static Weights weights(const char* line, std::size_t v, std::size_t part) {
    const char* const pairs = line + v * kLanes * 4;
    return part == 0 ? widen_even(pairs) : widen_odd(pairs);
  }
  static Value value(const char* a, std::size_t part) { return splat(load_as<float>(a + part * 4)); }
  static Acc accumulate(Acc acc, Value a, Weights w) { return fma(a, w, acc); }
};

}  // namespace
}  // namespace pepnet
