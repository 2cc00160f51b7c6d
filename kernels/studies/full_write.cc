// What changes the fully associative cache: rows, deletions, negative entries, labels, and who makes room.
#include <algorithm>
#include <cmath>

#include "cache/row_codec.h"
#include "studies/full_cache.h"

namespace pepnet::full {
namespace {

constexpr float kNoScore = std::numeric_limits<float>::quiet_NaN();

}  // namespace

std::size_t FullCache::write(const RowBatch& batch, Write how, Written* results) noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  const double ahead = batch.expires == nullptr ? 0.0 : clock_.ahead();
  std::size_t written = 0;
  for (std::size_t i = 0; i < batch.keys.size(); ++i) {
    NewEntry row;
    row.key = batch.keys[i];
    row.row = batch.rows + static_cast<std::ptrdiff_t>(i) * batch.stride;
    row.version = batch.versions == nullptr ? 0 : batch.versions[i];
    row.expires = batch.expires == nullptr ? kNever : batch.expires[i] - ahead;
    row.score = batch.scores == nullptr ? kNoScore : batch.scores[i];
    row.restored = how == Write::kRestore;
    row.earned = row.restored && batch.earned != nullptr && batch.earned[i];
    const Written result = write_one(row, how, now);
    if (results != nullptr) results[i] = result;
    written += result == Written::kInserted || result == Written::kReplaced;
  }
  return written;
}

Written FullCache::write_one(const NewEntry& row, Write how, double now) noexcept {
  NewEntry fresh = row;
  if (!(row.expires < kNever)) {
    const auto* field = fields_.of(row.key);
    fresh.expires = field == nullptr ? kNever : now + field->rule.ttl;
  }
  const bool update = how == Write::kUpdate || how == Write::kUpdateKnown;
  const Id id = present(row.key, now);
  if ((how == Write::kPutKnown || how == Write::kUpdateKnown) && id == kNoId) return Written::kRejected;
  bool newer = true;
  if (how == Write::kPut || how == Write::kPutKnown) {
    // whatever is there
  } else if (id == kNoId || entries_[id].kind == Kind::kNegative) {
    // A negative entry knows no version: what may be older than a row that was evicted stays out all the
    // same.
    newer = !update || above_floor(row.version);
  } else {
    const Entry& entry =
        entries_[id];  // A deletion wins over a row of its own version, a row that is read again over itself.
    newer =
        row.version > entry.version || (row.version == entry.version && !update && entry.kind == Kind::kRow);
  }
  if (!newer) {
    // There is such an id, or was: the store is asked again, which knows.
    if (id != kNoId && entries_[id].kind == Kind::kNegative) detach(id, false);
    ++(update ? stats_.updates_stale : stats_.stale);
    return Written::kStale;
  }
  const Written result = id == kNoId ? admit(fresh, now) : replace(id, fresh, now);
  if (result == Written::kRejected) return result;
  ++(result == Written::kInserted ? stats_.inserted : stats_.replaced);
  stats_.updates_applied += update;
  return result;
}

// The entry of a key; a tombstone that has expired is none.
Id FullCache::present(std::uint64_t key, double now) noexcept {
  const Id id = find(key);
  if (id == kNoId || entries_[id].kind != Kind::kTombstone || entries_[id].expires > now) return id;
  evict(id, &CacheStats::evicted_expired, false);
  return kNoId;
}

Written FullCache::replace(Id id, const NewEntry& row, double now) noexcept {
  Entry& entry = entries_[id];
  if (entry.kind != Kind::kRow) {  // it takes the place of what said that there is none
    const std::uint64_t version = entry.version;
    detach(id, false);
    policy_->announce(row.key);
    if (!make_room_in(groups_.of(row.key),
                      now)) {  // out of date all the same: from here on the store is asked
      floor_ = std::max(floor_, version);
      return Written::kRejected;
    }
    const Id free = free_;
    free_ = entries_[free].older;
    fill(free, row, now);
    return Written::kReplaced;
  }
  put_row(id, row.row);
  entry.version = row.version;
  set_expiry(id, row.expires);
  if (!std::isnan(row.score) && scores() && (options_.policy == CachePolicy::kGset || row.restored)) {
    start_score(entry, row, now);
    if (!entry.high_priority) policy_->rescored(id);
  }
  return Written::kReplaced;
}

Written FullCache::admit(const NewEntry& row, double now) noexcept {
  const auto* field = fields_.of(row.key);
  if (!row.restored && !admitted(row.key, field)) {
    ++stats_.rejected_admission;
    return Written::kRejected;
  }
  policy_->announce(row.key);
  const Id id = make_room(groups_.of(row.key), now);
  if (id == kNoId) return Written::kRejected;
  fill(id, row, now);
  return Written::kInserted;
}

// Drawn from the seed, the key and a running number, so that a replay draws the same.
bool FullCache::admitted(std::uint64_t key, const cache::Fields::Field* field) noexcept {
  const double probability = fields_.admission(field);
  if (probability >= 1.0) return true;
  const std::uint64_t drawn = mix(mix(key ^ mix(options_.seed + 1)) + ++admissions_ * 0x9E37'79B9'7F4A'7C15);
  return static_cast<double>(drawn >> 11) * 0x1p-53 < probability;
}

bool FullCache::make_room_in(Group group, double now) noexcept {
  if (group == 0 || sizes_[group] < groups_.quotas[group]) return true;
  if (const Id old = expired(group, now); old != kNoId) {
    evict(old, &CacheStats::evicted_expired, false);
  } else if (const Id worst = policy_->victim(group); worst != kNoId) {
    evict(worst, &CacheStats::evicted_share, true);
  } else {
    ++stats_.rejected_share;
    return false;
  }
  return true;
}

Id FullCache::make_room(Group group, double now) noexcept {
  if (!make_room_in(group, now)) return kNoId;
  if (free_ == kNoId) {
    if (const Id old = expired(kAnyGroup, now); old != kNoId) {
      evict(old, &CacheStats::evicted_expired, false);
    } else if (const Id worst = policy_->victim(kAnyGroup); worst != kNoId) {
      evict(worst, &CacheStats::evicted_policy, true);
    } else {
      ++stats_.rejected_priority;
      return kNoId;
    }
  }
  const Id id = free_;
  free_ = entries_[id].older;
  return id;
}

// What expired first, of that group or of any; kNoId: nothing has.
Id FullCache::expired(Group group, double now) const noexcept {
  Id first = kNoId;
  for (std::size_t g = 0; g < expiries_.size(); ++g) {
    if ((group != kAnyGroup && g != group) || expiries_[g].empty()) continue;
    const Id id = expiries_[g].first();
    if (entries_[id].expires > now) continue;
    if (first == kNoId || entries_[id].expires < entries_[first].expires) first = id;
  }
  return first;
}

void FullCache::fill(Id id, const NewEntry& row, double now) noexcept {
  Entry& entry = entries_[id];
  entry = Entry{};
  entry.key = row.key;
  entry.version = row.version;
  entry.kind = row.kind;
  entry.group = row.kind == Kind::kRow ? groups_.of(row.key) : Group{0};
  entry.access = ++accesses_;
  const auto* field = fields_.of(row.key);
  entry.high_priority = row.kind == Kind::kRow && field != nullptr && field->rule.high_priority;
  entry.score = Decay::nothing();
  if (row.kind == Kind::kRow) {
    put_row(id, row.row);
    if (scores()) start_score(entry, row, now);
  }
  set_expiry(id, row.expires);
  index_.insert(row.key, id);
  ++sizes_[entry.group];
  ++held(entry.kind);
  if (!entry.high_priority) policy_->enter(id);
}

void FullCache::put_row(Id id, const float* row) noexcept {
  std::byte* target = rows_.data() + std::size_t{id} * row_bytes_;
  if (row == nullptr) {
    std::fill_n(target, row_bytes_, std::byte{0});
    return;
  }
  cache::with_cache_row(options_.type,
                        [&]<CacheRow type>() noexcept { cache::store_row<type>(row, target, options_.dim); });
}

void FullCache::set_expiry(Id id, double expires) noexcept {
  Entry& entry = entries_[id];
  ExpiryHeap& expiries = expiries_[entry.group];
  if (entry.expiry_place != kNoId) expiries.remove(id);
  entry.expires = expires;
  if (expires < kNever) expiries.push(id);
}

// A row without a score of its own begins with the access that brought it here.
void FullCache::start_score(Entry& entry, const NewEntry& row, double now) noexcept {
  const bool given = !std::isnan(row.score) && (options_.policy == CachePolicy::kGset || row.restored);
  entry.scored = given && options_.policy == CachePolicy::kGset && !row.earned;
  entry.score = given ? decay_.of_score(std::max(0.0, static_cast<double>(row.score)), now)
                      : decay_.with_access(Decay::nothing(), now);
}

void FullCache::evict(Id id, std::uint64_t CacheStats::* reason, bool by_policy) noexcept {
  ++(stats_.*reason);
  floor_ = std::max(floor_, entries_[id].version);
  detach(id, by_policy);
}

void FullCache::detach(Id id, bool by_policy) noexcept {
  Entry& entry = entries_[id];
  if (!entry.high_priority) policy_->leave(id, by_policy);
  if (entry.expiry_place != kNoId) expiries_[entry.group].remove(id);
  index_.erase(entry.key, [this](Id other) { return entries_[other].key; });
  --sizes_[entry.group];
  --held(entry.kind);
  entry = Entry{};
  entry.older = free_;
  free_ = id;
}

std::uint64_t& FullCache::held(Kind kind) noexcept {
  if (kind == Kind::kRow) return stats_.rows;
  return kind == Kind::kNegative ? stats_.negatives : stats_.tombstones;
}

std::size_t FullCache::forget(PackedArray<std::uint64_t> keys) noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  std::size_t there = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Id id = present(keys[i], now);
    if (id == kNoId) continue;
    detach(id, false);
    ++there;
  }
  return there;
}

void FullCache::mark_absent(PackedArray<std::uint64_t> keys) noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    NewEntry none;
    none.key = keys[i];
    none.kind = Kind::kNegative;
    none.expires = now + options_.negative_ttl;
    none.score = kNoScore;
    if (const Id id = find(none.key); id != kNoId) {
      if (entries_[id].expires > now) continue;  // else it is news no longer: the store has just been asked
      evict(id, &CacheStats::evicted_expired, false);
    }
    policy_->announce(none.key);
    if (const Id id = make_room(0, now); id != kNoId) fill(id, none, now);
  }
}

std::size_t FullCache::erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                             const double* expires) noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  const double ahead = expires == nullptr ? 0.0 : clock_.ahead();
  std::size_t applied = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    NewEntry tombstone;
    tombstone.key = keys[i];
    tombstone.kind = Kind::kTombstone;
    tombstone.version = versions[i];
    tombstone.expires = expires == nullptr ? now + options_.tombstone_ttl : expires[i] - ahead;
    tombstone.score = kNoScore;
    Id id = present(tombstone.key, now);
    bool newer = true;
    if (id == kNoId || entries_[id].kind == Kind::kNegative) {
      newer = above_floor(tombstone.version);
    } else {
      const Entry& entry = entries_[id];
      // Of two statements of one version, the deletion holds.
      newer = tombstone.version > entry.version ||
              (tombstone.version == entry.version && entry.kind == Kind::kRow);
    }
    if (!newer) {
      ++stats_.updates_stale;
      continue;
    }
    ++stats_.updates_applied;
    ++stats_.erased;
    ++applied;
    if (id != kNoId) detach(id, false);
    policy_->announce(tombstone.key);
    id = make_room(0, now);
    if (id != kNoId) {
      fill(id, tombstone, now);
    } else {  // nothing as old as this may come in any more
      floor_ = std::max(floor_, tombstone.version);
    }
  }
  return applied;
}

std::size_t FullCache::feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept {
  const std::lock_guard guard(lock_);
  const double now = time();
  std::size_t resident = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Id id;
    if (find_outcome(keys[i], now, id) != Outcome::kRow) continue;
    ++resident;
    if (!scores()) continue;
    Entry& entry = entries_[id];
    entry.score = decay_.with_sample(entry.score, positive[i], now);
    entry.scored = options_.policy == CachePolicy::kGset;
    if (!entry.high_priority) policy_->rescored(id);
  }
  return resident;
}

}  // namespace pepnet::full
