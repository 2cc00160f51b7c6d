// An array whose address need not be a multiple of its element's size: tables are read straight from mapped
// files.
#pragma once

#include <cstddef>
#include <cstring>

namespace pepnet {

// A read-only view of `size` packed values. Loads go through memcpy, which compiles to one plain load and,
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
  const std::byte* bytes(std::size_t i) const noexcept { return data_ + i * sizeof(T); }

 private:
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace pepnet
