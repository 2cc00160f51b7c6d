// What the cache is measured against, as plain functions for ctypes. No part of the extension.
#pragma once

#include <cstddef>
#include <cstdint>

#define PEPNET_PEER extern "C" __attribute__((visibility("default")))

// One line a peer that was compiled in: its name, a tab, what it is.
PEPNET_PEER const char* pepnet_peers();

// A dense table of zeros on pages as the cache's: 2 MiB aligned, huge where the system gives them. Null: no
// memory.
PEPNET_PEER void* pepnet_dense_make(std::size_t rows, std::size_t dim);
PEPNET_PEER float* pepnet_dense_data(void* dense);
PEPNET_PEER void pepnet_dense_free(void* dense);

// How the floor copies: `ahead` rows are asked for before they are copied; `width` is 16, 32 or 64 bytes a
// move. Asking for the destination's lines too, or asking with the non-temporal hint, makes it slower by 1 to
// 3 ns a row.
struct PepnetGather {
  std::uint32_t ahead;
  std::uint32_t width;
};
// The widest move this CPU has.
PEPNET_PEER std::uint32_t pepnet_widest();
// out[i] = table[positions[i]]; rows of `out` are `stride` floats apart. Positions are not checked.
PEPNET_PEER void pepnet_dense_gather(const void* dense, const std::int64_t* positions, std::size_t count,
                                     float* out, std::ptrdiff_t stride, const PepnetGather* how);
// The fastest of `repeats` gathers of successive batches of `count` out of `total` positions, in ns a row,
// timed here.
PEPNET_PEER double pepnet_dense_time(const void* dense, const std::int64_t* positions, std::size_t total,
                                     std::size_t count, float* out, std::ptrdiff_t stride,
                                     const PepnetGather* how, std::size_t repeats);

// Caches of `rows` rows by name, as pepnet_peers says; null for a name that is not there and for no memory.
PEPNET_PEER void* pepnet_cache_make(const char* name, std::size_t rows, std::size_t dim);
// 0 where it does not fit: list-lru evicts, the others refuse.
PEPNET_PEER int pepnet_cache_insert(void* cache, const std::uint64_t* keys, const float* rows,
                                    std::size_t count);
// Returns how many were there; rows of those that were not are left as they are.
PEPNET_PEER std::size_t pepnet_cache_lookup(void* cache, const std::uint64_t* keys, std::size_t count,
                                            float* out, std::ptrdiff_t stride);
PEPNET_PEER std::size_t pepnet_cache_size(const void* cache);
PEPNET_PEER void pepnet_cache_free(void* cache);
