// Copies rows out of a table, widened to float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows/key_index.h"
#include "rows/packed.h"
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

}  // namespace pepnet
