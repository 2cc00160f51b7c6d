#include "rows/lookup.h"

#include "cpu/prefetch.h"
#include "rows/row_codec.h"

namespace pepnet {
namespace {

// Hands out the rows of the keys [first, last). Three keys are in work at any time:
//
//     key i + 2·kLookAhead   its bucket is asked for
//     key i + kLookAhead     its bucket has come: compare keys, ask for the row
//     key i                  its row has come: hand it out
class RowStream {
 public:
  RowStream(const KeyIndex& index, PackedArray<std::uint64_t> keys, const RowsView& rows, std::size_t first,
            std::size_t last) noexcept
      : index_(index), keys_(keys), rows_(rows), next_(first), last_(last) {
    for (std::size_t i = first; i < first + kLookAhead; ++i) begin(i);
    for (std::size_t i = first; i < first + kLookAhead; ++i) {
      end(i);
      begin(i + kLookAhead);
    }
  }

  // The next key's row, or nullptr where it has none.
  const std::byte* next() noexcept {
    const std::byte* const row = ready_[next_ % kLookAhead];
    end(next_ + kLookAhead);
    begin(next_ + 2 * kLookAhead);
    ++next_;
    return row;
  }

 private:
  void begin(std::size_t i) noexcept {
    if (i < last_) homes_[i % kLookAhead] = index_.home(keys_[i]);
  }
  void end(std::size_t i) noexcept {
    if (i >= last_) return;
    // One comparison for absent and, where the index is of more rows, too large alike.
    const auto position = static_cast<std::uint64_t>(index_.resolve(keys_[i], homes_[i % kLookAhead]));
    const std::byte* const row = position < rows_.count ? rows_.row(position) : nullptr;
    if (row != nullptr) prefetch_range(row, rows_.row_bytes());
    ready_[i % kLookAhead] = row;
  }

  const KeyIndex& index_;
  const PackedArray<std::uint64_t> keys_;
  const RowsView rows_;
  std::size_t next_;
  const std::size_t last_;
  std::size_t homes_[kLookAhead] = {};
  const std::byte* ready_[kLookAhead] = {};
};

}  // namespace

std::size_t lookup(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                   PackedArray<float> default_row, OutView out, bool* found) noexcept {
  return with_row_type(rows.type, [&]<RowType type>() noexcept {
    RowStream stream(index, keys, rows, 0, out.count);
    std::size_t unknown = 0;
    for (std::size_t i = 0; i < out.count; ++i) {
      float* const target = out.row(i);
      const std::byte* const row = stream.next();
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

std::size_t lookup_pool(const KeyIndex& index, const RowsView& rows, PackedArray<std::uint64_t> keys,
                        PackedArray<std::int64_t> offsets, Pooling pooling, PackedArray<float> default_row,
                        OutView out) noexcept {
  return with_row_type(rows.type, [&]<RowType type>() noexcept {
    BagSums sums(offsets, keys.size(), pooling, out, rows.dim);
    RowStream stream(index, keys, rows, sums.first(), sums.last());
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

void pool(const RowsView& rows, PackedArray<std::int64_t> offsets, Pooling pooling, OutView out) noexcept {
  with_row_type(rows.type, [&]<RowType type>() noexcept {
    BagSums sums(offsets, rows.count, pooling, out, rows.dim);
    std::size_t item = sums.first();
    sums.each_item([&](float* target) {
      each_value<type>(rows.row(item++), rows.dim, [&](std::size_t d, float value) { target[d] += value; });
    });
  });
}

}  // namespace pepnet
