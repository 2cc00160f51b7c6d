// What everything in this folder builds on. PEPNET_VECTOR, defined by each file of isa/ before its first
// include, names the header that says what a register is.
#pragma once

#include PEPNET_VECTOR

#include "dense/ops.h"

namespace pepnet {
namespace {

inline constexpr std::size_t kVecs = kPanel / kLanes;  // registers in a panel

inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec div(Vec a, Vec b) { return a / b; }
inline Vec negate(Vec x) { return -x; }
// The first `n` floats at `p`, zeros beyond; those are not read.
inline Vec load_up_to(const float* p, std::size_t n) { return n < kLanes ? load_first(p, n) : load(p); }

}  // namespace
}  // namespace pepnet
