#include "rows/gather.h"

#include "cpu/prefetch.h"
#include "rows/row_codec.h"

namespace pepnet {
namespace {

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

template <class Source>
std::size_t gather_from(const Source& source, const RowsView& rows, const PackedArray<float>& default_row,
                        const OutView& out, bool* found) noexcept {
  return with_row_type(rows.type, [&]<RowType type>() noexcept {
    RowStream<Source> stream(source, rows, 0, out.count);
    std::size_t unknown = 0;
    for (std::size_t i = 0; i < out.count; ++i) {
      float* target = out.row(i);
      const std::byte* row = stream.next();
      if (found != nullptr) found[i] = row != nullptr;
      if (row != nullptr) {
        load_row<type>(row, target, rows.dim);
      } else {
        for (std::size_t d = 0; d < rows.dim; ++d) target[d] = default_row[d];
        ++unknown;
      }
    }
    return unknown;
  });
}

template <class Source>
std::size_t pool_from(const Source& source, std::size_t items, const RowsView& rows,
                      const PackedArray<std::int64_t>& offsets, Pooling pooling,
                      const PackedArray<float>& default_row, const OutView& out) noexcept {
  return with_row_type(rows.type, [&]<RowType type>() noexcept {
    BagSums sums(offsets, items, pooling, out, rows.dim);
    RowStream<Source> stream(source, rows, sums.first(), sums.last());
    std::size_t unknown = 0;
    sums.each_item([&](float* target) {
      if (const std::byte* const row = stream.next()) {
        each_value<type>(row, rows.dim, [&](std::size_t d, float value) { target[d] += value; });
      } else {
        for (std::size_t d = 0; d < rows.dim; ++d) target[d] += default_row[d];
        ++unknown;
      }
    });
    return unknown;
  });
}

}  // namespace

std::size_t gather(const RowsView& rows, PackedArray<std::int64_t> positions, PackedArray<float> default_row,
                   OutView out) noexcept {
  return gather_from(KnownPositions{positions}, rows, default_row, out, nullptr);
}

std::size_t lookup(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                   PackedArray<float> default_row, OutView out, bool* found) noexcept {
  return gather_from(SearchedPositions{index, keys}, rows, default_row, out, found);
}

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
