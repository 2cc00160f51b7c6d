// Rows of a table, widened to float32: copied, or added up by bag.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows/bag_sums.h"
#include "rows/key_index.h"
#include "rows/rows.h"

namespace pepnet {

// out[i] = the row of keys[i], or `default_row` [rows.dim] where `index` does not have it. Returns how many
// it does not have; where `found` is not null, found[i] says which. `out` has keys.size() rows. Reads stay
// inside `rows`, of whatever rows the index is.
std::size_t lookup(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                   PackedArray<float> default_row, OutView out, bool* found) noexcept;

// out[b] = mean or sum of the rows of keys[offsets[b] .. offsets[b+1]), added in that order in float32; zeros
// for an empty bag. `default_row` takes part for a key that `index` does not have; returns how many those
// are. `offsets` has out.count + 1 entries and is monotone within [0, keys.size()]; reads stay inside the
// arrays whatever it holds.
std::size_t lookup_pool(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                        PackedArray<std::int64_t> offsets, Pooling pooling, PackedArray<float> default_row,
                        OutView out) noexcept;

// The same of rows that lie one behind the other: offsets are of `rows` themselves.
void pool(const RowsView& rows, PackedArray<std::int64_t> offsets, Pooling pooling, OutView out) noexcept;

}  // namespace pepnet
