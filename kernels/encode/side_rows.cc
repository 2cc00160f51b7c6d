#include "encode/side_rows.h"

#include <algorithm>
#include <cstring>

#include "cpu/prefetch.h"

namespace pepnet {

namespace {

template <class T>
void pick(const T* matrix, std::size_t width, const std::size_t* columns, std::size_t column_count,
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

}  // namespace

void pick_columns(const std::uint64_t* matrix, std::size_t width, const std::size_t* columns,
                  std::size_t column_count, const std::int64_t* positions, std::size_t count,
                  std::uint64_t* out) noexcept {
  pick(matrix, width, columns, column_count, positions, count, out);
}

void pick_columns(const float* matrix, std::size_t width, const std::size_t* columns,
                  std::size_t column_count, const std::int64_t* positions, std::size_t count,
                  float* out) noexcept {
  pick(matrix, width, columns, column_count, positions, count, out);
}

std::size_t pick_offsets(const BagsView& bags, const std::int64_t* positions, std::size_t count,
                         std::int64_t* offsets) noexcept {
  std::int64_t end = 0;
  offsets[0] = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(positions[i]);
    end += bags.offsets[at + 1] - bags.offsets[at];
    offsets[i + 1] = end;
  }
  return static_cast<std::size_t>(end);
}

void pick_keys(const BagsView& bags, const std::int64_t* positions, std::size_t count,
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
