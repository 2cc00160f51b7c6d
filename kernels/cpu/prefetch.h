// Prefetching.
#pragma once

#include <cstddef>

namespace pepnet {

inline constexpr std::size_t kCacheLine = 64;

// How many items a batched loop looks ahead. The work on one item is some 10 ns and a miss to memory some 100
// ns, and a core of today keeps 10 to 20 misses in flight: 16 covers the latency without running out of them.
inline constexpr std::size_t kLookAhead = 16;

// Never faults, whatever the address.
inline void prefetch(const void* address) noexcept { __builtin_prefetch(address, 0, 3); }

// Asks for the lines of `bytes` from `address`, but not for more than eight: from there on the hardware sees
// the stream.
inline void prefetch_range(const void* address, std::size_t bytes) noexcept {
  constexpr std::size_t kMost = 8 * kCacheLine;
  const auto* first = static_cast<const char*>(address);
  const std::size_t wanted = bytes < kMost ? bytes : kMost;
  for (std::size_t offset = 0; offset < wanted; offset += kCacheLine) prefetch(first + offset);
  if (wanted != 0)
    prefetch(first + wanted - 1);  // rows are not aligned: the last byte may lie one line further
}

}  // namespace pepnet
