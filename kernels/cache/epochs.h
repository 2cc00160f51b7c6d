// When a slot may be written again: once every reader that could hold it has left.
//
// Readers announce themselves in places of their own and take them back; writers number the slots they
// retire.
//
//     reader   place <- epoch       then hot words, slots        place <- 0
//     writer   hot word <- new      retire old slot under epoch e     later: epoch + 1; reuse where all
//     places > e
//
// All four accesses marked here are seq_cst, so that they have one order for all threads: if the writer does
// not see the reader's place, its store of the hot word comes before the reader's load of it, and the reader
// finds the new slot. If it does see it, the slot waits. A reader never waits, retries or takes part in any
// of this.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cpu/prefetch.h"

namespace pepnet::cache {

// The announcement of one reader, and its counters.
struct alignas(2 * kCacheLine) ReaderPlace {  // two lines: neighbours are fetched together
  std::atomic<std::uint64_t> epoch;           // 0: free
  std::atomic<std::uint64_t> hits, misses, negative_hits;
};

class Epochs {
 public:
  static constexpr std::size_t kPlaces = 64;

  // `places` [kPlaces] zeroed.
  explicit Epochs(ReaderPlace* places) noexcept : places_(places) {}

  // Announces a reader for the length of a call.
  class Stay {
   public:
    explicit Stay(Epochs& epochs) noexcept : epochs_(epochs), place_(epochs.enter()) {}
    Stay(const Stay&) = delete;
    Stay& operator=(const Stay&) = delete;
    ~Stay() { place_->epoch.store(0, std::memory_order_release); }

    // Ends the announcement for what was read so far, so that a long batch delays no writer.
    void renew() noexcept { place_->epoch.store(epochs_.epoch_.load(), std::memory_order_seq_cst); }
    void count(std::uint64_t hits, std::uint64_t misses, std::uint64_t negative_hits) noexcept {
      add(place_->hits, hits);
      add(place_->misses, misses);
      add(place_->negative_hits, negative_hits);
    }

   private:
    // The place is this thread's alone, so that no locked addition is needed.
    static void add(std::atomic<std::uint64_t>& total, std::uint64_t more) noexcept {
      total.store(total.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
    }
    Epochs& epochs_;
    ReaderPlace* place_;
  };

  // Of a slot that was just replaced.
  std::uint64_t retired() const noexcept { return epoch_.load(std::memory_order_seq_cst); }

  // Slots retired under numbers below this one are free.
  std::uint64_t advance() noexcept;

 private:
  ReaderPlace* enter() noexcept;

  alignas(kCacheLine) std::atomic<std::uint64_t> epoch_{1};
  std::atomic<std::size_t> used_{0};  // places below this one have been used
  ReaderPlace* places_;
};

}  // namespace pepnet::cache
