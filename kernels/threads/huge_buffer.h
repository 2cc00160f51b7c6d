// Memory for what is read from end to end at every call: packed weights and scratch.
#pragma once

#include <cstddef>
#include <memory>

namespace pepnet {

// Zeroed memory at a multiple of 2 MiB. From that size on the kernel is asked for huge pages: a stream over
// ordinary ones stops at each 4 KiB, where the hardware's prefetch ends and an entry of the TLB is spent.
class HugeBuffer {
 public:
  static constexpr std::size_t kAlignment = std::size_t{2} << 20;
  static constexpr std::size_t kPage = std::size_t{64} << 10;  // a multiple of every page size in use
  // kSmall: what does not fill a huge page at the end stays in small ones, and mapped_bytes() is `bytes`
  // rounded up to kPage: for a budget that must hold.
  enum class Tail : bool { kHuge, kSmall };

  HugeBuffer() noexcept = default;
  // Throws std::bad_alloc. No bytes: no memory, data() is null.
  explicit HugeBuffer(std::size_t bytes, Tail tail = Tail::kHuge);

  std::byte* data() noexcept { return data_.get(); }
  const std::byte* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return data_ ? data_.get_deleter().size : 0; }  // as asked for
  // What it may come to occupy.
  std::size_t mapped_bytes() const noexcept { return data_ ? data_.get_deleter().mapped : 0; }

 private:
  struct Unmap {
    std::size_t size, mapped;
    void operator()(std::byte* data) const noexcept;
  };
  std::unique_ptr<std::byte, Unmap> data_;
};

}  // namespace pepnet
