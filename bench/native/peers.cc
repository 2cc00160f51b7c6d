// The caches by name.
#include "peers.h"

#include <exception>
#include <memory>
#include <string_view>

#include "cache_peer.h"

using pepnet::bench::CachePeer;

namespace {

struct Known {
  std::string_view name;
  std::unique_ptr<CachePeer> (*make)(std::size_t rows, std::size_t dim);
};

constexpr Known kKnown[] = {
    {"list-lru", pepnet::bench::make_list_lru},
#ifdef PEPNET_PEERS_ROBIN_MAP
    {"robin-map", pepnet::bench::make_robin_map},
#endif
#ifdef PEPNET_PEERS_ABSL
    {"absl-map", pepnet::bench::make_absl_map},
#endif
};

CachePeer& peer(void* cache) noexcept { return *static_cast<CachePeer*>(cache); }

}  // namespace

const char* pepnet_peers() {
  return "list-lru\tstd::unordered_map and std::list, rows copied\n"
#ifdef PEPNET_PEERS_ROBIN_MAP
         "robin-map\ttsl::robin_map to an arena of rows\n"
#endif
#ifdef PEPNET_PEERS_ABSL
         "absl-map\tabsl::flat_hash_map to an arena of rows\n"
#endif
      ;
}

void* pepnet_cache_make(const char* name, std::size_t rows, std::size_t dim) {
  try {
    for (const auto& known : kKnown)
      if (known.name == name) return known.make(rows, dim).release();
  } catch (const std::bad_alloc&) {
  }
  return nullptr;
}

int pepnet_cache_insert(void* cache, const std::uint64_t* keys, const float* rows, std::size_t count) {
  try {
    peer(cache).insert(keys, rows, count);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

std::size_t pepnet_cache_lookup(void* cache, const std::uint64_t* keys, std::size_t count, float* out,
                                std::ptrdiff_t stride) {
  return peer(cache).lookup(keys, count, out, stride);
}

std::size_t pepnet_cache_size(const void* cache) { return static_cast<const CachePeer*>(cache)->size(); }

void pepnet_cache_free(void* cache) { delete static_cast<CachePeer*>(cache); }
