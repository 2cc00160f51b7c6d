// Chooses the fastest tile for each product of a program by measuring on the device.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "cuda/program.h"
#include "cuda/runtime.h"

namespace pepnet::cuda {

// By the number of rows: the tile of each launch of products, in order.
using TilesByRows = std::map<int, std::vector<TileChoice>>;

// The fastest tiles for each of `buckets`, or `given` for all (or a smaller
// one, where that cannot be). Programs of a kind are measured once in a
// process for a device: weights that follow do not wait for it again. Takes scratch memory meanwhile. Bits of
// scores do not depend on what comes out.
TilesByRows tiles_for(const Program& program, const std::byte* weights, int device,
                      std::span<const int> buckets, std::optional<Tile> given);

}  // namespace pepnet::cuda
