// What all the caches under comparison have in common, and the memory their rows lie in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "threads/huge_buffer.h"

// A plain function for ctypes. No part of the extension.
#define PEPNET_PEER extern "C" __attribute__((visibility("default")))

namespace pepnet::bench {

class CachePeer {
 public:
  virtual ~CachePeer() = default;
  virtual void insert(const std::uint64_t* keys, const float* rows, std::size_t count) = 0;
  virtual std::size_t lookup(const std::uint64_t* keys, std::size_t count, float* out,
                             std::ptrdiff_t stride) = 0;
  virtual std::size_t size() const = 0;
};

// Slots of one size on the same kind of pages as the cache's rows.
class Arena {
 public:
  Arena(std::size_t slots, std::size_t slot_bytes) : bytes_(slot_bytes), buffer_(slots * slot_bytes) {}

  std::byte* slot(std::size_t i) noexcept { return buffer_.data() + i * bytes_; }

 private:
  std::size_t bytes_;
  pepnet::HugeBuffer buffer_;
};

// 160 bytes, the row of the comparison, as straight moves; a call of memcpy for any other size.
inline void copy_row(void* to, const void* from, std::size_t bytes) noexcept {
  if (bytes == 160) {
    std::memcpy(to, from, 160);
  } else {
    std::memcpy(to, from, bytes);
  }
}

}  // namespace pepnet::bench
