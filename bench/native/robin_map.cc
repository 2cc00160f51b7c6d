#include <tsl/robin_map.h>

#include "map_arena.h"

namespace pepnet::bench {

std::unique_ptr<CachePeer> make_robin_map(std::size_t rows, std::size_t dim) {
  return std::make_unique<MapArena<tsl::robin_map<std::uint64_t, std::uint32_t, Mix>>>(rows, dim);
}

}  // namespace pepnet::bench
