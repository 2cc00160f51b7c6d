// The loop of every gather and pool: finds rows, prefetches them and returns them in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/prefetch.h"
#include "rows/half.h"
#include "rows/key_index.h"
#include "rows/packed.h"
#include "rows/rows.h"

namespace pepnet {

// Positions that are known already. A source has two steps for item i: `begin(i)` starts the search, `end(i,
// begun)` returns the position kLookAhead items later.
struct KnownPositions {
  PackedArray<std::int64_t> positions;

  std::size_t begin(std::size_t) const noexcept { return 0; }
  std::int64_t end(std::size_t i, std::size_t) const noexcept { return positions[i]; }
};

struct SearchedPositions {
  const KeyIndex& index;
  PackedArray<std::uint64_t> keys;

  std::size_t begin(std::size_t i) const noexcept { return index.home(keys[i]); }
  std::int64_t end(std::size_t i, std::size_t bucket) const noexcept {
    return index.resolve(keys[i], bucket);
  }
};

// Hands out the rows of items [first, last) of a source. Three items are in work at any time:
//
//     item i + 2·kLookAhead   its bucket is asked for
//     item i + kLookAhead     its bucket has come: compare keys, ask for the row
//     item i                  its row has come: hand it out
template <class Source>
class RowStream {
 public:
  RowStream(const Source& source, const RowsView& rows, std::size_t first, std::size_t last) noexcept
      : source_(source), rows_(rows), begun_(first), ended_(first), next_(first), last_(last) {
    while (begun_ < last_ && begun_ - first < kLookAhead) begin_one();
    while (ended_ < last_ && ended_ - first < kLookAhead) {
      end_one();
      if (begun_ < last_) begin_one();
    }
  }

  // The next item's row, or nullptr where the source has no position inside the table.
  const std::byte* next() noexcept {
    const std::byte* row = ready_[next_ % kLookAhead];
    ++next_;
    if (ended_ < last_) end_one();
    if (begun_ < last_) begin_one();
    return row;
  }

 private:
  void begin_one() noexcept {
    homes_[begun_ % kLookAhead] = source_.begin(begun_);
    ++begun_;
  }
  void end_one() noexcept {
    // One comparison for absent, negative and too large alike. Callers have checked; this is what keeps a
    // read inside the table should another thread write to the positions meanwhile.
    const auto position = static_cast<std::uint64_t>(source_.end(ended_, homes_[ended_ % kLookAhead]));
    const std::byte* row = position < rows_.count ? rows_.row(position) : nullptr;
    if (row != nullptr) prefetch_range(row, rows_.row_bytes());
    ready_[ended_ % kLookAhead] = row;
    ++ended_;
  }

  const Source source_;
  const RowsView rows_;
  std::size_t begun_, ended_, next_;
  const std::size_t last_;
  std::size_t homes_[kLookAhead] = {};
  const std::byte* ready_[kLookAhead] = {};
};

// Element `i` of a stored row, widened.
template <RowType type>
float load(const std::byte* row, std::size_t i) noexcept {
  if constexpr (type == RowType::kFloat32) {
    return PackedArray<float>(row, i + 1)[i];
  } else {
    const std::uint16_t bits = PackedArray<std::uint16_t>(row, i + 1)[i];
    return type == RowType::kFloat16 ? float_from_half(bits) : float_from_bfloat16(bits);
  }
}

// Calls `body` with the row type as a template argument: the type is looked at once a call, not once a
// number.
template <class Body>
std::size_t with_row_type(RowType type, Body&& body) noexcept {
  switch (type) {
    case RowType::kFloat32:
      return body.template operator()<RowType::kFloat32>();
    case RowType::kFloat16:
      return body.template operator()<RowType::kFloat16>();
    case RowType::kBfloat16:
      break;
  }
  return body.template operator()<RowType::kBfloat16>();
}

}  // namespace pepnet
