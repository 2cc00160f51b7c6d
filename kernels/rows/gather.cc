#include "rows/gather.h"

#include "rows/row_stream.h"

namespace pepnet {
namespace {

template <RowType type>
void widen(const std::byte* row, float* out, std::size_t dim) noexcept {
  if constexpr (type == RowType::kFloat32) {
    std::memcpy(out, row, dim * sizeof(float));
  } else {
    for (std::size_t i = 0; i < dim; ++i) out[i] = load<type>(row, i);
  }
}

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
        widen<type>(row, target, rows.dim);
      } else {
        for (std::size_t d = 0; d < rows.dim; ++d) target[d] = default_row[d];
        ++unknown;
      }
    }
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

}  // namespace pepnet
