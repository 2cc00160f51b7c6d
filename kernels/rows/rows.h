// Views of memory: arrays at any address, stored rows, and float32 rows that are written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pepnet {

// A read-only view of `size` values whose address need not be a multiple of their size: tables are read
// straight from mapped files. Loads go through memcpy, which compiles to one plain load and,
// unlike a dereferenced T*, is defined for any address.
template <class T>
class PackedArray {
 public:
  PackedArray(const void* data, std::size_t size) noexcept
      : data_(static_cast<const std::byte*>(data)), size_(size) {}

  T operator[](std::size_t i) const noexcept {
    T value;
    std::memcpy(&value, data_ + i * sizeof(T), sizeof(T));
    return value;
  }
  std::size_t size() const noexcept { return size_; }
  PackedArray part(std::size_t begin, std::size_t size) const noexcept { return {bytes(begin), size}; }
  const std::byte* bytes(std::size_t i) const noexcept { return data_ + i * sizeof(T); }

 private:
  const std::byte* data_;
  std::size_t size_;
};

// How the numbers of a row are kept. kInt8, in caches: one float32 scale, then a code each; value = scale ·
// code, scale = max|row| / 127.
enum class RowType : std::uint8_t { kFloat32, kFloat16, kBfloat16, kInt8 };

constexpr std::size_t row_bytes(RowType type, std::size_t dim) noexcept {
  if (type == RowType::kInt8) return sizeof(float) + dim;
  return dim * (type == RowType::kFloat32 ? 4 : 2);
}

// N stored rows of `dim` numbers without gaps, at any address: they may lie in a mapped file.
struct RowsView {
  const std::byte* data;
  std::size_t count;
  std::size_t dim;
  RowType type;

  std::size_t row_bytes() const noexcept { return pepnet::row_bytes(type, dim); }
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
