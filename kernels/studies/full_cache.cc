#include "studies/full_cache.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <stdexcept>
#include <string>

#include "cache/row_codec.h"

namespace pepnet {

std::unique_ptr<RowCache> make_full_cache(const CacheOptions& options) {
  const std::size_t most = std::min<std::size_t>(full::kNoId - 1, options.capacity_bytes);
  std::size_t low = 0, high = options.max_rows == 0 ? most : std::min(most, options.max_rows);
  while (low < high) {  // the most rows that fit
    const std::size_t middle = low + (high - low + 1) / 2;
    if (full::FullCache::bytes(options, middle) <= options.capacity_bytes) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  if (low == 0) {
    throw std::invalid_argument("capacity_bytes: expected at least " +
                                std::to_string(full::FullCache::bytes(options, 1)) + " for one row, got " +
                                std::to_string(options.capacity_bytes));
  }
  return std::make_unique<full::FullCache>(options, low);
}

namespace full {

Groups::Groups(const CacheOptions& options, std::size_t rows) : quotas{rows} {
  for (const FieldRule& rule : options.fields) {
    if (rule.share >= 1.0) continue;
    tables.push_back(rule.table);
    quotas.push_back(static_cast<std::size_t>(rule.share * static_cast<double>(rows)));
  }
}

Group Groups::of(std::uint64_t key) const noexcept {
  for (std::size_t i = 0; i < tables.size(); ++i)
    if (tables[i] == cache::table_of(key)) return static_cast<Group>(i + 1);
  return 0;
}

std::size_t FullCache::bytes(const CacheOptions& options, std::size_t rows) {
  const Groups groups(options, rows);
  std::size_t total =
      sizeof(FullCache) + rows * (sizeof(Entry) + cache::row_bytes(options.type, options.dim));
  total += Index::bytes(rows) + Policy::bytes(options.policy, rows, groups.quotas);
  for (const std::size_t quota : groups.quotas)
    total += sizeof(ExpiryHeap) + 2 * sizeof(std::size_t) + quota * sizeof(Id);
  total += groups.tables.size() * sizeof(std::uint16_t);
  total += options.fields.size() * sizeof(cache::Fields::Field);
  return total;
}

FullCache::FullCache(const CacheOptions& options, std::size_t rows)
    : options_(options),
      row_bytes_(cache::row_bytes(options.type, options.dim)),
      fields_(options, rows),
      groups_(options, rows),
      decay_(options.beta, options.r, options.interval),
      entries_(rows),
      rows_(rows * row_bytes_),
      index_(rows, options.seed),
      sizes_(groups_.quotas.size()),
      policy_(Policy::make(options.policy, entries_, groups_.quotas, options.seed)) {
  expiries_.reserve(groups_.quotas.size());
  for (const std::size_t quota : groups_.quotas) expiries_.emplace_back(entries_, quota);
  clear();
}

Id FullCache::find(std::uint64_t key) const noexcept {
  return index_.find(key, [this](Id id) { return entries_[id].key; });
}

Outcome FullCache::find_outcome(std::uint64_t key, double now, Id& id) const noexcept {
  id = find(key);
  if (id == kNoId || entries_[id].expires <= now) return Outcome::kMiss;
  return entries_[id].kind == Kind::kRow ? Outcome::kRow : Outcome::kAbsent;
}

void FullCache::count(Outcome outcome) noexcept {
  stats_.hits += outcome == Outcome::kRow;
  stats_.misses += outcome == Outcome::kMiss;
  stats_.negative_hits += outcome == Outcome::kAbsent;
}

Outcome FullCache::access(std::uint64_t key, double now, bool counted, Id& id) noexcept {
  const Outcome outcome = find_outcome(key, now, id);
  if (!counted) return outcome;
  count(outcome);
  if (outcome != Outcome::kRow) return outcome;
  Entry& entry = entries_[id];
  entry.access = ++accesses_;
  if (scores() && !entry.scored) entry.score = decay_.with_access(entry.score, now);
  if (!entry.high_priority) policy_->touch(id);
  return outcome;
}

std::size_t FullCache::lookup(PackedArray<std::uint64_t> keys, OutView out, Outcome* outcomes,
                              bool counted) noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  return cache::with_cache_row(options_.type, [&]<CacheRow type>() noexcept {
    std::size_t rows = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      Id id;
      const Outcome outcome = access(keys[i], now, counted, id);
      if (outcomes != nullptr) outcomes[i] = outcome;
      if (outcome != Outcome::kRow) continue;
      cache::load_row<type>(row_at(id), out.row(i), options_.dim);
      ++rows;
    }
    return rows;
  });
}

std::size_t FullCache::lookup_pool(PackedArray<std::uint64_t> keys, PackedArray<std::int64_t> offsets,
                                   Pooling pooling, OutView out, Outcome* outcomes, bool counted) noexcept {
  if (out.count == 0) return 0;
  const std::lock_guard guard(lock_);
  const double now = time();
  // Offsets are held inside [cursor, items] as they are read: no value of theirs can lead outside.
  const auto items = static_cast<std::int64_t>(keys.size());
  const std::int64_t first = std::clamp<std::int64_t>(offsets[0], 0, items);
  return cache::with_cache_row(options_.type, [&]<CacheRow type>() noexcept {
    std::size_t rows = 0;
    std::int64_t cursor = first;
    for (std::size_t bag = 0; bag < out.count; ++bag) {
      float* target = out.row(bag);
      std::fill_n(target, options_.dim, 0.0F);
      const std::int64_t end = std::clamp<std::int64_t>(offsets[bag + 1], cursor, items);
      const std::int64_t length = end - cursor;
      for (; cursor < end; ++cursor) {
        Id id;
        const Outcome outcome = access(keys[static_cast<std::size_t>(cursor)], now, counted, id);
        if (outcomes != nullptr) outcomes[cursor] = outcome;
        if (outcome != Outcome::kRow) continue;
        cache::each_value<type>(row_at(id), options_.dim,
                                [&](std::size_t d, float value) { target[d] += value; });
        ++rows;
      }
      if (pooling == Pooling::kMean && length > 1) {
        const auto divisor = static_cast<float>(length);
        for (std::size_t d = 0; d < options_.dim; ++d) target[d] /= divisor;
      }
    }
    return rows;
  });
}

std::size_t FullCache::replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  std::size_t found = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Id id;
    const bool hit = access(keys[i], now, true, id) == Outcome::kRow;
    if (!hit) {
      NewEntry row;
      row.key = keys[i];
      row.score = std::numeric_limits<float>::quiet_NaN();
      (void)write_one(row, Write::kInsert, now);
    }
    if (hits != nullptr) hits[i] = hit;
    found += hit;
  }
  return found;
}

EntryInfo FullCache::info(const Entry& entry, double now) const noexcept {
  EntryInfo info;
  if (entry.expires > now) info.outcome = entry.kind == Kind::kRow ? Outcome::kRow : Outcome::kAbsent;
  info.tombstone = entry.kind == Kind::kTombstone;
  info.high_priority = entry.high_priority;
  info.scored = entry.scored;
  info.version = entry.version;
  info.expires = entry.expires + clock_.ahead();
  if (scores()) info.score = static_cast<float>(decay_.score(entry.score, now));
  return info;
}

void FullCache::peek(PackedArray<std::uint64_t> keys, EntryInfo* infos) const noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Id id = find(keys[i]);
    infos[i] = id == kNoId ? EntryInfo{} : info(entries_[id], now);
  }
}

CachePart FullCache::part(std::size_t) const {
  const std::lock_guard guard(lock_);
  const double now = time();
  std::vector<Id> ids = policy_->order();
  for (Id id = 0; id < entries_.size(); ++id)
    if (entries_[id].kind != Kind::kFree && entries_[id].high_priority) ids.push_back(id);
  CachePart part;
  part.rows.resize(ids.size() * options_.dim);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Entry& entry = entries_[ids[i]];
    part.keys.push_back(entry.key);
    part.infos.push_back(info(entry, now));
    part.order.push_back(i);
    if (entry.kind != Kind::kRow) continue;
    cache::with_cache_row(options_.type, [&]<CacheRow type>() noexcept {
      cache::load_row<type>(row_at(ids[i]), part.rows.data() + i * options_.dim, options_.dim);
    });
  }
  return part;
}

void FullCache::after_fork() noexcept {
  if (lock_.try_lock()) {
    lock_.unlock();
    return;
  }
  // A thread that is not here was in the middle of changing it.
  new (&lock_) std::mutex;
  reset();
}

std::uint64_t FullCache::floor() const noexcept {
  const std::lock_guard guard(lock_);
  return floor_;
}

void FullCache::raise_floor(std::uint64_t version) noexcept {
  const std::lock_guard guard(lock_);
  floor_ = std::max(floor_, version);
}

void FullCache::clear() noexcept {
  const std::lock_guard guard(lock_);
  reset();
}

void FullCache::reset() noexcept {
  index_.clear();
  policy_->clear();
  for (ExpiryHeap& expiries : expiries_) expiries.clear();
  std::fill(sizes_.begin(), sizes_.end(), std::size_t{0});
  free_ = kNoId;
  for (std::size_t i = entries_.size(); i-- > 0;) {
    entries_[i] = Entry{};
    entries_[i].older = free_;
    free_ = static_cast<Id>(i);
  }
  floor_ = 0;
  stats_.rows = stats_.negatives = stats_.tombstones = 0;
}

CacheStats FullCache::stats() const noexcept {
  const std::lock_guard guard(lock_);
  return stats_;
}

}  // namespace full
}  // namespace pepnet
