#include "encode/side_rows.h"

#include <cstring>

namespace pepnet {

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
