// Memory for what is read from end to end at every call: packed weights and scratch.
#pragma once

#include <cstddef>
#include <utility>

namespace pepnet {

// Zeroed memory at a multiple of 2 MiB. From that size on the kernel is asked for huge pages: a stream over
// ordinary ones stops at each 4 KiB, where the hardware's prefetch ends and an entry of the TLB is spent.
class HugeBuffer {
 public:
  static constexpr std::size_t kAlignment = std::size_t{2} << 20;

  HugeBuffer() noexcept = default;
  // Throws std::bad_alloc. No bytes: no memory, data() is null.
  explicit HugeBuffer(std::size_t bytes) : HugeBuffer(bytes, Tail::kHuge) {}
  // kSmall: what does not fill a huge page at the end stays in small ones, and mapped_bytes() is `bytes`
  // rounded up to 64 KiB: for a budget that must hold.
  enum class Tail : bool { kHuge, kSmall };
  HugeBuffer(std::size_t bytes, Tail tail);
  HugeBuffer(HugeBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        mapped_(std::exchange(other.mapped_, 0)) {}
  HugeBuffer& operator=(HugeBuffer&& other) noexcept {
    HugeBuffer old(std::move(*this));
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    mapped_ = std::exchange(other.mapped_, 0);
    return *this;
  }
  ~HugeBuffer();

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }            // as asked for
  std::size_t mapped_bytes() const noexcept { return mapped_; }  // what it may come to occupy

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t mapped_ = 0;
};

}  // namespace pepnet
