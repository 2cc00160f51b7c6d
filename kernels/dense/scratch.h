// Scratch memory, reused from run to run.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "threads/huge_buffer.h"

namespace pepnet::engine {

// What one run at a time uses.
struct Scratch {
  std::vector<HugeBuffer> blocks;  // by participant; the first serves all when columns are split
  HugeBuffer prefix, sums;

  // Throws std::bad_alloc.
  static void grow(HugeBuffer& buffer, std::size_t bytes) {
    if (buffer.size() < bytes) buffer = HugeBuffer(bytes);
  }
  std::size_t bytes() const {
    std::size_t total = prefix.mapped_bytes() + sums.mapped_bytes();
    for (const HugeBuffer& block : blocks) total += block.mapped_bytes();
    return total;
  }
};

// Without a lock: a process forked in the middle of a run finds it usable.
class ScratchPool {
 public:
  ScratchPool() = default;
  ScratchPool(const ScratchPool&) = delete;
  ScratchPool& operator=(const ScratchPool&) = delete;
  ~ScratchPool() {
    for (std::atomic<Scratch*>& slot : slots_) delete slot.load();
  }

  std::unique_ptr<Scratch> take() {
    for (std::atomic<Scratch*>& slot : slots_) {
      if (slot.load(std::memory_order_relaxed) == nullptr) continue;
      if (Scratch* const found = slot.exchange(nullptr, std::memory_order_acquire)) {
        return std::unique_ptr<Scratch>(found);
      }
    }
    return std::make_unique<Scratch>();
  }

  void give(std::unique_ptr<Scratch> scratch) noexcept {
    for (std::atomic<Scratch*>& slot : slots_) {
      Scratch* none = nullptr;
      if (slot.load(std::memory_order_relaxed) == nullptr &&
          slot.compare_exchange_strong(none, scratch.get(), std::memory_order_release)) {
        (void)scratch.release();
        return;
      }
    }
  }

  // Bytes of scratch that has grown by `more` in a run.
  void count(std::size_t more) noexcept { bytes_.fetch_add(more, std::memory_order_relaxed); }
  std::size_t bytes() const noexcept { return bytes_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t kSlots = 64;  // more runs at once than these give theirs back to the system
  std::array<std::atomic<Scratch*>, kSlots> slots_{};
  std::atomic<std::size_t> bytes_{0};
};

}  // namespace pepnet::engine
