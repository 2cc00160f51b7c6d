// Rows of a side table, an entity each, picked into columns, a field each.
//
// A row's fields lie side by side: an entity costs the cache lines of one row, not one for each field.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows/packed.h"

namespace pepnet {

// out[c][i] = matrix[positions[i]][columns[c]], for positions below the matrix's rows.
void pick_columns(const std::uint64_t* matrix, std::size_t width, const std::size_t* columns,
                  std::size_t column_count, const std::int64_t* positions, std::size_t count,
                  std::uint64_t* out) noexcept;
void pick_columns(const float* matrix, std::size_t width, const std::size_t* columns,
                  std::size_t column_count, const std::int64_t* positions, std::size_t count,
                  float* out) noexcept;

// Bags of entities: entity e has keys[offsets[e] .. offsets[e + 1]).
struct BagsView {
  PackedArray<std::uint64_t> keys;
  PackedArray<std::int64_t> offsets;
};

// Writes the offsets, int64 [count + 1] from 0, of the bags at `positions`. Returns how many keys they have.
std::size_t pick_offsets(const BagsView& bags, const std::int64_t* positions, std::size_t count,
                         std::int64_t* offsets) noexcept;

// Writes those keys.
void pick_keys(const BagsView& bags, const std::int64_t* positions, std::size_t count,
               std::uint64_t* keys) noexcept;

}  // namespace pepnet
