// Views of memory: stored rows, and float32 rows that are written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pepnet {

enum class RowType : std::uint8_t { kFloat32, kFloat16, kBfloat16 };

constexpr std::size_t bytes_of(RowType type) noexcept { return type == RowType::kFloat32 ? 4 : 2; }

// N stored rows of `dim` numbers without gaps, at any address: they may lie in a mapped file.
struct RowsView {
  const std::byte* data;
  std::size_t count;
  std::size_t dim;
  RowType type;

  std::size_t row_bytes() const noexcept { return dim * bytes_of(type); }
  const std::byte* row(std::size_t position) const noexcept { return data + position * row_bytes(); }
};

// `count` float32 rows of a destination, `stride` floats apart: usually some columns of a wider matrix.
struct OutView {
  float* data;
  std::size_t count;
  std::ptrdiff_t stride;

  float* row(std::size_t i) const noexcept { return data + static_cast<std::ptrdiff_t>(i) * stride; }
};

}  // namespace pepnet
