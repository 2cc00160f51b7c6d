#pragma once

#include <cstdint>

#include "dense/ops.h"

namespace pepnet::test {

extern const Ops kEmulatedBf16, kEmulatedInt8;

// How often the calling thread's emulated tiles were configured and released, and whether they are now.
struct TileCounts {
  std::uint64_t configurations, releases;
  bool configured;
};
TileCounts tile_counts();

}  // namespace pepnet::test
