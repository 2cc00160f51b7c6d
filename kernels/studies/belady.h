// Belady's MIN: the most hits any cache of that size can have that holds every row it was asked for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows/packed.h"

namespace pepnet::studies {

// Replays `keys` through a cache of `rows` rows that evicts the one whose next access is farthest away (L. A.
// Belady, IBM Systems Journal 5(2), 1966). hits [N] or null. Returns how many hit. Throws std::bad_alloc.
std::size_t belady(PackedArray<std::uint64_t> keys, std::size_t rows, bool* hits);

}  // namespace pepnet::studies
