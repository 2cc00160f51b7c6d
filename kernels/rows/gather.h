// Rows of a table, widened to float32: copied, or added up by bag.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows/bag_sums.h"
#include "rows/key_index.h"
#include "rows/rows.h"

namespace pepnet {

// out[i] = rows[positions[i]], or `default_row` where the position is not in [0, rows.count). Returns how
// many were not. `out` has positions.size() rows of rows.dim columns. Reads stay inside `rows` whatever the
// positions are.
std::size_t gather(const RowsView& rows, PackedArray<std::int64_t> positions, PackedArray<float> default_row,
                   OutView out) noexcept;

// The same with the positions of `keys` in `index`: search and copy overlap, and no positions are stored.
// Where `found` is not null, found[i] says whether key i was there.
std::size_t lookup(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                   PackedArray<float> default_row, OutView out, bool* found) noexcept;

// out[b] = mean or sum of the rows at positions[offsets[b] .. offsets[b+1]), added in that order in float32;
// zeros for an empty bag. A position outside [0, rows.count) takes part with `default_row`; returns how many
// did. `offsets` has out.count + 1 entries and is monotone within [0, positions.size()] (check with
// `bad_offset`); reads stay inside the arrays whatever it holds.
std::size_t pool(const RowsView& rows, PackedArray<std::int64_t> positions, PackedArray<std::int64_t> offsets,
                 Pooling pooling, PackedArray<float> default_row, OutView out) noexcept;

// The same with the positions of `keys` in `index`.
std::size_t lookup_pool(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                        PackedArray<std::int64_t> offsets, Pooling pooling, PackedArray<float> default_row,
                        OutView out) noexcept;

// The first i whose offset is below the one before it or outside [0, size]; -1 when all are in order.
std::int64_t bad_offset(PackedArray<std::int64_t> offsets, std::size_t size) noexcept;

}  // namespace pepnet
