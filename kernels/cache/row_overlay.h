// Changed rows in front of a cache, for calls of a version of the model whose rows are not in it yet.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cache/row_cache.h"
#include "rows/key_index.h"
#include "rows/rows.h"

namespace pepnet {

// What became of the keys of one lookup.
struct OverlayLookup {
  std::size_t hits = 0;      // rows that came from the cache
  std::size_t ours = 0;      // keys that the overlay has: the cache neither sees nor counts them
  std::size_t defaults = 0;  // of ours, those that got the default row

  OverlayLookup& operator+=(const OverlayLookup& other) noexcept {
    hits += other.hits;
    ours += other.ours;
    defaults += other.defaults;
    return *this;
  }
};

// Never changed: any number of threads may ask at once.
class RowOverlay {
 public:
  // N rows by key. `gone` [N], not 0 for an id that is deleted, and `expires` [N], Unix seconds, may be null.
  // What they point to must stay; `keys` are copied. Throws std::invalid_argument for a key that comes twice,
  // std::bad_alloc.
  RowOverlay(PackedArray<std::uint64_t> keys, RowsView rows, const std::uint8_t* gone, const double* expires);

  // RowCache::lookup of the keys that are not here. Those that are get their row, or `default_row` [dim] when
  // it is deleted or over its time by the cache's clock, and the outcome kRow. Throws std::bad_alloc.
  OverlayLookup lookup(RowCache& cache, PackedArray<std::uint64_t> keys, PackedArray<float> default_row,
                       OutView out, Outcome* outcomes, bool counted) const;

  // The same of bags, as RowCache::lookup_pool. `offsets` rise within [0, keys.size()]. Where hits and ours
  // are not all keys of the bags, `out` is undefined.
  OverlayLookup lookup_pool(RowCache& cache, PackedArray<std::uint64_t> keys,
                            PackedArray<std::int64_t> offsets, Pooling pooling,
                            PackedArray<float> default_row, OutView out, Outcome* outcomes,
                            bool counted) const;

  const KeyIndex& index() const noexcept { return index_; }
  std::size_t dim() const noexcept { return rows_.dim; }

 private:
  // Of so many keys at most that their rows stay in the first level cache.
  static constexpr std::size_t kBlock = 256;
  OverlayLookup lookup_block(RowCache& cache, PackedArray<std::uint64_t> keys, PackedArray<float> default_row,
                             OutView out, Outcome* outcomes, bool counted) const;

  KeyIndex index_;
  RowsView rows_;
  const std::uint8_t* gone_;
  const double* expires_;
};

}  // namespace pepnet
