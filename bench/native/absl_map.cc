#include <absl/container/flat_hash_map.h>

#include "map_arena.h"

namespace pepnet::bench {

std::unique_ptr<CachePeer> make_absl_map(std::size_t rows, std::size_t dim) {
  return std::make_unique<MapArena<absl::flat_hash_map<std::uint64_t, std::uint32_t>>>(rows, dim);
}

}  // namespace pepnet::bench
