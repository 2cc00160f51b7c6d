// One step of k: what is loaded from a panel's cache line, and how it is multiplied into the accumulators.
//
// A step has: Acc, one register of accumulators; Weights, one register's worth of columns; Value, what one
// row contributes, repeated over the lanes; kBytes, the bytes of a row's activations in one step.
#pragma once

#include "generic/panel.h"

namespace pepnet {
namespace {

inline float load_float(const char* p) {
  float x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}

struct Float32Step {
  using Acc = Vec;
  using Weights = Vec;
  using Value = Vec;
  static constexpr std::size_t kBytes = 4;
  static constexpr bool kInteger = false;
  static Acc start(const float* init) { return load(init); }
  static Acc zero() { return splat(0.0F); }
  static Weights weights(const char* line, std::size_t v) {
    return load(reinterpret_cast<const float*>(line) + v * kLanes);
  }
  static Value value(const char* a) { return splat(load_float(a)); }
  static Acc accumulate(Acc acc, Value a, Weights w) { return fma(a, w, acc); }
  static void keep(float* tile, Acc acc) { store(tile, acc); }
};

// bf16 weights widened to float32, activations in float32: half the bytes of weights, no rounded activations.
struct WidenedStep {
  using Acc = Vec;
  struct Weights {
    Vec even, odd;
  };
  struct Value {
    Vec even, odd;
  };
  static constexpr std::size_t kBytes = 8;
  static constexpr bool kInteger = false;
  static Acc start(const float* init) { return load(init); }
  static Acc zero() { return splat(0.0F); }
  static Weights weights(const char* line, std::size_t v) {
    Weights w;
    widen(line + v * kLanes * 4, w.even, w.odd);
    return w;
  }
  static Value value(const char* a) { return {splat(load_float(a)), splat(load_float(a + 4))}; }
  static Acc accumulate(Acc acc, Value a, Weights w) { return fma(a.odd, w.odd, fma(a.even, w.even, acc)); }
  static void keep(float* tile, Acc acc) { store(tile, acc); }
};

}  // namespace
}  // namespace pepnet
