// The caches by name, as plain functions.
#include <exception>
#include <memory>
#include <string_view>

#include "list_lru.h"
#include "map_arena.h"
#ifdef PEPNET_PEERS_ROBIN_MAP
#include <tsl/robin_map.h>
#endif
#ifdef PEPNET_PEERS_ABSL
#include <absl/container/flat_hash_map.h>
#endif

namespace {

using pepnet::bench::CachePeer;
using pepnet::bench::MapArena;

template <class Peer>
CachePeer* make(std::size_t rows, std::size_t dim) {
  return new Peer(rows, dim);
}

struct Known {
  std::string_view name;
  CachePeer* (*make)(std::size_t rows, std::size_t dim);
};

constexpr Known kKnown[] = {
    {"list-lru", make<pepnet::bench::ListLru>},
#ifdef PEPNET_PEERS_ROBIN_MAP
    {"robin-map", make<MapArena<tsl::robin_map<std::uint64_t, std::uint32_t, pepnet::bench::Mix>>>},
#endif
#ifdef PEPNET_PEERS_ABSL
    {"absl-map", make<MapArena<absl::flat_hash_map<std::uint64_t, std::uint32_t>>>},
#endif
};

CachePeer& peer(void* cache) noexcept { return *static_cast<CachePeer*>(cache); }

}  // namespace

// One line a peer that was compiled in: its name, a tab, what it is.
PEPNET_PEER const char* pepnet_peers() {
  return "list-lru\tstd::unordered_map and std::list, rows copied\n"
#ifdef PEPNET_PEERS_ROBIN_MAP
         "robin-map\ttsl::robin_map to an arena of rows\n"
#endif
#ifdef PEPNET_PEERS_ABSL
         "absl-map\tabsl::flat_hash_map to an arena of rows\n"
#endif
      ;
}

// A cache of `rows` rows; null for a name that is not there and for no memory.
PEPNET_PEER void* pepnet_cache_make(const char* name, std::size_t rows, std::size_t dim) {
  try {
    for (const auto& known : kKnown)
      if (known.name == name) return known.make(rows, dim);
  } catch (const std::bad_alloc&) {
  }
  return nullptr;
}

// 0 where it does not fit: list-lru evicts, the others refuse.
PEPNET_PEER int pepnet_cache_insert(void* cache, const std::uint64_t* keys, const float* rows,
                                    std::size_t count) {
  try {
    peer(cache).insert(keys, rows, count);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

// Returns how many were there; rows of those that were not are left as they are.
PEPNET_PEER std::size_t pepnet_cache_lookup(void* cache, const std::uint64_t* keys, std::size_t count,
                                            float* out, std::ptrdiff_t stride) {
  return peer(cache).lookup(keys, count, out, stride);
}

PEPNET_PEER std::size_t pepnet_cache_size(const void* cache) {
  return static_cast<const CachePeer*>(cache)->size();
}

PEPNET_PEER void pepnet_cache_free(void* cache) { delete static_cast<CachePeer*>(cache); }
