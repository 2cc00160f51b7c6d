#include "cache/row_overlay.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "rows/bag_sums.h"

namespace pepnet {

RowOverlay::RowOverlay(PackedArray<std::uint64_t> keys, RowsView rows, const std::uint8_t* gone,
                       const double* expires)
    : index_(keys), rows_(rows), gone_(gone), expires_(expires) {}

OverlayLookup RowOverlay::lookup_block(RowCache& cache, PackedArray<std::uint64_t> keys,
                                       PackedArray<float> default_row, OutView out, Outcome* outcomes,
                                       bool counted) const {
  thread_local std::vector<float> scratch;
  const std::size_t dim = rows_.dim, count = keys.size();
  std::array<std::int64_t, kBlock> places;
  std::array<std::uint64_t, kBlock> others;
  std::array<std::uint16_t, kBlock> where;
  std::size_t lacking = 0;
  index_.find(keys, places.data());
  for (std::size_t i = 0; i < count; ++i) {
    others[lacking] = keys[i];
    where[lacking] = static_cast<std::uint16_t>(i);
    lacking += places[i] == KeyIndex::kAbsent;
  }
  OverlayLookup answered;
  answered.ours = count - lacking;
  if (answered.ours == 0) {
    answered.hits = cache.lookup(keys, out, outcomes, counted);
    return answered;
  }
  const double now = expires_ == nullptr ? 0.0 : cache.unix_time();
  for (std::size_t i = 0; i < count; ++i) {
    if (places[i] == KeyIndex::kAbsent) continue;
    const auto place = static_cast<std::size_t>(places[i]);
    outcomes[i] = Outcome::kRow;
    if ((gone_ != nullptr && gone_[place] != 0) || (expires_ != nullptr && !(expires_[place] > now))) {
      for (std::size_t d = 0; d < dim; ++d) out.row(i)[d] = default_row[d];
      ++answered.defaults;
    } else {
      std::memcpy(out.row(i), rows_.row(place), rows_.row_bytes());
    }
  }
  if (lacking == 0) return answered;
  std::array<Outcome, kBlock> came;
  scratch.resize(std::max(scratch.size(), lacking * dim));
  float* const rows = scratch.data();
  answered.hits = cache.lookup({others.data(), lacking}, {rows, lacking, static_cast<std::ptrdiff_t>(dim)},
                               came.data(), counted);
  for (std::size_t i = 0; i < lacking; ++i) {
    outcomes[where[i]] = came[i];
    if (came[i] == Outcome::kRow) std::copy_n(rows + i * dim, dim, out.row(where[i]));
  }
  return answered;
}

OverlayLookup RowOverlay::lookup(RowCache& cache, PackedArray<std::uint64_t> keys,
                                 PackedArray<float> default_row, OutView out, Outcome* outcomes,
                                 bool counted) const {
  OverlayLookup answered;
  for (std::size_t begin = 0; begin < keys.size(); begin += kBlock) {
    const std::size_t count = std::min(kBlock, keys.size() - begin);
    answered += lookup_block(cache, keys.part(begin, count), default_row, {out.row(begin), count, out.stride},
                             outcomes + begin, counted);
  }
  return answered;
}

OverlayLookup RowOverlay::lookup_pool(RowCache& cache, PackedArray<std::uint64_t> keys,
                                      PackedArray<std::int64_t> offsets, Pooling pooling,
                                      PackedArray<float> default_row, OutView out, Outcome* outcomes,
                                      bool counted) const {
  BagSums sums(offsets, keys.size(), pooling, out, rows_.dim);
  bool any = false;
  for (std::size_t i = sums.first(); i < sums.last() && !any; ++i)
    any = index_.resolve(keys[i], index_.home(keys[i])) != KeyIndex::kAbsent;
  OverlayLookup answered;
  if (!any) {
    answered.hits = cache.lookup_pool(keys, offsets, pooling, out, outcomes, counted);
    return answered;
  }
  thread_local std::vector<float> scratch;
  const std::size_t dim = rows_.dim;
  scratch.resize(std::max(scratch.size(), kBlock * dim));
  float* const rows = scratch.data();
  for (std::size_t begin = sums.first(); begin < sums.last(); begin += kBlock) {
    const std::size_t count = std::min(kBlock, sums.last() - begin);
    answered += lookup_block(cache, keys.part(begin, count), default_row,
                             {rows, count, static_cast<std::ptrdiff_t>(dim)}, outcomes + begin, counted);
    for (std::size_t i = 0; i < count; ++i) {
      if (float* const target = sums.target(begin + i))
        for (std::size_t d = 0; d < dim; ++d) target[d] += rows[i * dim + d];
    }
  }
  sums.finish();
  return answered;
}

}  // namespace pepnet
