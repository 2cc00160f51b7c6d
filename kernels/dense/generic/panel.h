// What everything in this folder builds on. PEPNET_VECTOR, defined by each file of isa/ before its first
// include, names the header that says what a register is.
#pragma once

#include PEPNET_VECTOR

#include "dense/ops.h"

namespace pepnet {
namespace {

inline constexpr std::size_t kVecs = kPanel / kLanes;  // registers in a panel

}  // namespace
}  // namespace pepnet
