// From the rows of a side table, one per entity, to columns, one per field.
//
// A row's fields lie side by side: an entity costs the cache lines of one row, not one for each field.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/prefetch.h"
#include "rows/rows.h"

namespace pepnet {

// out[c][i] = matrix[positions[i]][columns[c]], for positions below the matrix's rows.
template <class T>
void pick_columns(const T* matrix, std::size_t width, const std::size_t* columns, std::size_t column_count,
                  const std::int64_t* positions, std::size_t count, T* out) noexcept {
  const auto row_at = [&](std::size_t i) noexcept {
    return matrix + static_cast<std::size_t>(positions[i]) * width;
  };
  for (std::size_t i = 0; i < std::min(count, kLookAhead); ++i) prefetch_range(row_at(i), width * sizeof(T));
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kLookAhead < count) prefetch_range(row_at(i + kLookAhead), width * sizeof(T));
    const T* const row = row_at(i);
    for (std::size_t c = 0; c < column_count; ++c) out[c * count + i] = row[columns[c]];
  }
}

// Bags of entities: entity e has keys[offsets[e] .. offsets[e + 1]).
struct BagsView {
  PackedArray<std::uint64_t> keys;
  PackedArray<std::int64_t> offsets;
};

// Writes the offsets, int64 [count + 1] from 0, of the bags at `positions`. Returns how many keys they have.
inline std::size_t pick_offsets(const BagsView& bags, const std::int64_t* positions, std::size_t count,
                                std::int64_t* offsets) noexcept {
  offsets[0] = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(positions[i]);
    offsets[i + 1] = offsets[i] + bags.offsets[at + 1] - bags.offsets[at];
  }
  return static_cast<std::size_t>(offsets[count]);
}

// Writes those keys.
inline void pick_keys(const BagsView& bags, const std::int64_t* positions, std::size_t count,
                      std::uint64_t* keys) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(positions[i]);
    const auto begin = static_cast<std::size_t>(bags.offsets[at]);
    const std::size_t size = static_cast<std::size_t>(bags.offsets[at + 1]) - begin;
    if (size != 0) std::memcpy(keys, bags.keys.bytes(begin), size * sizeof *keys);
    keys += size;
  }
}

}  // namespace pepnet
