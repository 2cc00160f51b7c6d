#include "rows/pool_bags.h"

#include <algorithm>

#include "rows/row_stream.h"

namespace pepnet {
namespace {

template <class Source>
std::size_t pool_from(const Source& source, std::size_t items, const RowsView& rows,
                      const PackedArray<std::int64_t>& offsets, Pooling pooling,
                      const PackedArray<float>& default_row, const OutView& out) noexcept {
  if (out.count == 0) return 0;
  // Offsets are held inside [cursor, items] as they are read, once each: no value of theirs can lead outside.
  const auto limit = static_cast<std::int64_t>(items);
  std::int64_t cursor = std::clamp<std::int64_t>(offsets[0], 0, limit);
  const std::int64_t last = std::clamp<std::int64_t>(offsets[out.count], cursor, limit);
  return with_row_type(rows.type, [&]<RowType type>() noexcept {
    RowStream<Source> stream(source, rows, static_cast<std::size_t>(cursor), static_cast<std::size_t>(last));
    std::size_t unknown = 0;
    for (std::size_t bag = 0; bag < out.count; ++bag) {
      float* target = out.row(bag);
      std::fill_n(target, rows.dim, 0.0F);
      const std::int64_t end = std::clamp<std::int64_t>(offsets[bag + 1], cursor, last);
      const std::int64_t length = end - cursor;
      for (; cursor < end; ++cursor) {
        if (const std::byte* row = stream.next()) {
          for (std::size_t d = 0; d < rows.dim; ++d) target[d] += load<type>(row, d);
        } else {
          for (std::size_t d = 0; d < rows.dim; ++d) target[d] += default_row[d];
          ++unknown;
        }
      }
      if (pooling == Pooling::kMean && length > 1) {
        const auto divisor = static_cast<float>(length);
        for (std::size_t d = 0; d < rows.dim; ++d) target[d] /= divisor;
      }
    }
    return unknown;
  });
}

}  // namespace

std::size_t pool(const RowsView& rows, PackedArray<std::int64_t> positions, PackedArray<std::int64_t> offsets,
                 Pooling pooling, PackedArray<float> default_row, OutView out) noexcept {
  return pool_from(KnownPositions{positions}, positions.size(), rows, offsets, pooling, default_row, out);
}

std::size_t lookup_pool(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                        PackedArray<std::int64_t> offsets, Pooling pooling, PackedArray<float> default_row,
                        OutView out) noexcept {
  return pool_from(SearchedPositions{index, keys}, keys.size(), rows, offsets, pooling, default_row, out);
}

std::int64_t bad_offset(PackedArray<std::int64_t> offsets, std::size_t size) noexcept {
  std::int64_t before = 0;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    const std::int64_t offset = offsets[i];
    if (offset < before || offset > static_cast<std::int64_t>(size)) return static_cast<std::int64_t>(i);
    before = offset;
  }
  return -1;
}

}  // namespace pepnet
