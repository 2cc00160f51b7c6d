// The write path. A new row is written to a free slot and published by one store of a hot word.
#include <sched.h>

#include <algorithm>

#include "cache/row_cache.h"
#include "rows/row_codec.h"

namespace pepnet::cache {
namespace {

// How many keys behind the first stage the others are.
constexpr std::size_t kGuess = 8;
constexpr std::size_t kWrite = 16;
constexpr std::size_t kWriteRing = 32;

}  // namespace

bool RowCache::reclaim(Region& region) noexcept {
  const std::uint64_t free_below = epochs_.advance();
  bool any = false;
  while (region.limbo_size != 0 && region.limbo[region.limbo_begin].epoch < free_below) {
    const std::uint32_t slot = region.limbo[region.limbo_begin].slot;
    if (region.free_size < Region::kLimbo) {
      region.free[region.free_size++] = static_cast<std::uint16_t>(slot);
    } else {
      std::memcpy(slot_at(number_of(region), slot), &region.free_head, sizeof region.free_head);
      region.free_head = slot;
    }
    region.limbo_begin = (region.limbo_begin + 1) % Region::kLimbo;
    --region.limbo_size;
    any = true;
  }
  return any;
}

std::uint32_t RowCache::take_slot(Region& region) noexcept {
  // Readers leave within microseconds; one that lost its CPU needs it back.
  while (region.free_size == 0 && region.free_head == kEmpty && region.fresh == region.slots) {
    if (!reclaim(region)) (void)sched_yield();
  }
  std::uint32_t slot = region.free_head;
  if (region.free_size != 0) {
    slot = region.free[--region.free_size];
  } else if (slot == kEmpty) {
    slot = region.fresh++;
  } else {
    std::memcpy(&region.free_head, slot_at(number_of(region), slot), sizeof region.free_head);
  }
  // The next to be taken: the free one on top or, once the limbo is emptied, the youngest in it.
  std::uint32_t next = region.fresh;
  if (region.free_size != 0) {
    next = region.free[region.free_size - 1];
  } else if (region.limbo_size != 0) {
    next = region.limbo[(region.limbo_begin + region.limbo_size - 1) % Region::kLimbo].slot;
  }
  region.next_slot.store(next, std::memory_order_relaxed);
  return slot;
}

void RowCache::retire(Region& region, std::uint32_t word) noexcept {
  while (region.limbo_size == Region::kLimbo) {
    if (!reclaim(region)) (void)sched_yield();
  }
  const std::uint32_t at = (region.limbo_begin + region.limbo_size) % Region::kLimbo;
  region.limbo[at] = {epochs_.retired(), word & kSlotBits};
  ++region.limbo_size;
}

void RowCache::count_entry(Region& region, std::uint32_t word, std::uint64_t key, bool added) noexcept {
  Count& kind = is_negative(word)    ? region.counts.negatives
                : is_tombstone(word) ? region.counts.tombstones
                                     : region.counts.rows;
  kind += added ? 1 : ~std::uint64_t{0};
  if (has_row(word)) fields_.count(key, added ? 1 : -1);
}

double RowCache::expiry_of(const NewRow& row, double now) const noexcept {
  if (row.expires < kNever) return row.expires;
  const Fields::Field* field = fields_.of(row.key);
  return field == nullptr ? kNever : now + field->rule.ttl;
}

void RowCache::publish(Region& region, const Home& home, Room room, const NewRow& row, double now,
                       std::uint32_t flags) noexcept {
  const std::uint32_t slot = take_slot(region);
  const std::uint16_t code = Expiry::encode(expiry_of(row, now), now);
  if (code != Expiry::kNeverCode) flags |= kExpires;
  const SlotHeader header{home.rest() << 16 | code, row.version};
  std::byte* const to = slot_at(number_of(region), slot);
  std::memcpy(to, &header, sizeof header);
  if (row.row != nullptr) {
    with_row_type(options_.type,
                  [&]<RowType type>() noexcept { store_row<type>(row.row, row_of(to), options_.dim); });
  }
  const std::uint32_t word = home.tag | flags | slot;
  const std::uint32_t old = room.set->hot[room.way].load(std::memory_order_relaxed);
  room.set->hot[room.way].store(word, std::memory_order_seq_cst);
  if (is_empty(old)) {
    ++region.entries;
  } else {
    retire(region, old);
    count_entry(region, old, row.key, false);  // of the same key: evict() has emptied the way otherwise
  }
  count_entry(region, word, row.key, true);
}

void RowCache::set_order(Region& region, const Home& home, Room room, const NewRow& row,
                         double now) noexcept {
  std::uint32_t order = ScoreWord::kLowest;
  if (!scores()) {
    order = tick_.fetch_add(1, std::memory_order_relaxed);
    if (options_.policy == CachePolicy::kSieve) order &= kSieveAge;
    if (options_.policy == CachePolicy::kS3Fifo) order = (order & kQueueAge) | (take_ghost(home) ? kMain : 0);
  } else if (row.row != nullptr) {
    const double height = gset_.height(now, region.landmark.load(std::memory_order_relaxed));
    const bool comes_with_score =
        row.score == row.score && (options_.policy == CachePolicy::kGset || row.restored);
    order = ScoreWord::encode(comes_with_score ? gset_.of_score(static_cast<double>(row.score), height)
                                               : gset_.of_sample(false, height),
                              region.next_random());
  }
  room.set->order[room.way].store(order, std::memory_order_relaxed);
}

// The entry of a key; an entry that has expired is evicted here.
RowCache::Entry RowCache::find_living(Region& region, const Home& home, double now) noexcept {
  const Entry entry = find(home);
  if ((entry.word & kExpires) == 0 || is_empty(entry.word) || !Expiry(now).expired(entry.header.expiry()))
    return entry;
  evict(region, entry, EvictionReason::kExpired);
  return {};
}

WriteResult RowCache::write_one(Region& region, const Home& home, const NewRow& row, Write how,
                                double now) noexcept {
  RegionCounts& counts = region.counts;
  expect_expiry(region, row, now);
  const Entry entry = find_living(region, home, now);
  const bool update = how == Write::kUpdate || how == Write::kUpdateKnown;
  const bool put = how == Write::kPut || how == Write::kPutKnown;
  // A negative entry knows no version: what may be older than a row that was evicted stays out all the same.
  const bool below_floor = update && region.floor != 0 && row.version <= region.floor;
  if (!is_empty(entry.word)) {
    const bool newer = row.version > entry.header.version;
    // A deletion wins over a row of its own version, a row that is read again over itself.
    const bool same = row.version == entry.header.version && !update && !is_tombstone(entry.word);
    if (!put && (is_negative(entry.word) ? below_floor : !newer && !same)) {
      // There is such an id, or was: the store is asked again, which knows.
      if (is_negative(entry.word)) empty(region, entry);
      ++(update ? counts.updates_stale : counts.stale);
      return WriteResult::kStale;
    }
    if (!has_row(entry.word) && over_share(row) && replace_of_field(region, home, row, now).set == nullptr) {
      // What said that there is none is out of date all the same: from here on the store is asked.
      evict(region, entry, EvictionReason::kShare);
      return WriteResult::kRejected;
    }
    const bool scored = comes_scored(row);
    const std::uint32_t kept = has_row(entry.word) ? entry.word & kScored : 0;
    publish(region, home, entry, row, now, row.flags | kept | (scored ? kScored : 0));
    if (scored || row.restored || !has_row(entry.word)) set_order(region, home, entry, row, now);
    ++counts.replaced;
    if (update) ++counts.updates_applied;
    return WriteResult::kReplaced;
  }

  if (how == Write::kPutKnown || how == Write::kUpdateKnown) return WriteResult::kRejected;
  if (below_floor) {
    ++counts.updates_stale;
    return WriteResult::kStale;
  }
  if (const double admission = fields_.admission(row.key); !row.restored && admission < 1.0) {
    if (static_cast<double>(region.next_random()) / 4294967296.0 >= admission) {
      ++counts.rejected_admission;
      return WriteResult::kRejected;
    }
  }
  const Room room = make_room(region, home, row, now);
  if (room.set == nullptr) return WriteResult::kRejected;
  set_order(region, home, room, row, now);
  publish(region, home, room, row, now, row.flags | (comes_scored(row) ? kScored : 0));
  ++counts.inserted;
  if (update) ++counts.updates_applied;
  return WriteResult::kInserted;
}

// Asks for what writing a key will read: its entry, or else the row that is likely to make room for it. Looks
// without the lock: only a guess.
void RowCache::prefetch_entry(const Home& home) const noexcept {
  const Set& first = set_at(home.region, home.first);
  const Set& second = set_at(home.region, home.second);
  const unsigned ways = first.matches(home.tag), more = second.matches(home.tag);
  const Least least = least_of(first, second, order_base());
  const Set& set = ways != 0 || (more == 0 && least.set() == 0) ? first : second;
  const unsigned way =
      (ways | more) == 0 ? least.way() : static_cast<unsigned>(__builtin_ctz(ways != 0 ? ways : more));
  if (const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed); !is_empty(word))
    prefetch(slot_at(home.region, word));
  // Locks and publications wait for all stores before them: what is written had better be here by then.
  const Region& region = regions_[home.region];
  __builtin_prefetch(&region.entries, 1);
  __builtin_prefetch(&region.counts, 1);
  __builtin_prefetch(&region.counts.rows, 1);
  const std::byte* const next = slot_at(home.region, region.next_slot.load(std::memory_order_relaxed));
  for (std::size_t at = 0; at < layout_.slot_bytes && at < 8 * kCacheLine; at += kCacheLine)
    __builtin_prefetch(next + at, 1);
}

std::size_t RowCache::write(const RowBatch& batch, Write how, WriteResult* results) noexcept {
  const std::size_t size = batch.keys.size();
  const double now = time();
  sweep_expired(now);
  const double ahead = batch.expires == nullptr ? 0.0 : clock_.ahead();
  std::size_t written = 0;
  // A key's sets are asked for first, then the rows that they lead to, then it is written: what it needs is
  // on its way while those before it are written.
  Home ring[kWriteRing];
  const auto home_of = [&](std::size_t at) noexcept -> Home& { return ring[at % kWriteRing]; };
  const auto ask = [&](std::size_t at) noexcept {
    Home& home = home_of(at) = homes_.of(batch.keys[at]);
    prefetch(&regions_[home.region].lock);
    prefetch(&set_at(home.region, home.first));
    prefetch(&set_at(home.region, home.second));
  };
  for (std::size_t step = 0; step < size + kWrite; ++step) {
    if (step < size) ask(step);
    if (step >= kGuess && step - kGuess < size) prefetch_entry(home_of(step - kGuess));
    if (step < kWrite) continue;
    const std::size_t at = step - kWrite;
    const Home& home = home_of(at);
    NewRow row;
    row.key = batch.keys[at];
    row.row = batch.rows + static_cast<std::ptrdiff_t>(at) * batch.stride;
    if (batch.versions != nullptr) row.version = batch.versions[at];
    if (batch.expires != nullptr) row.expires = batch.expires[at] - ahead;
    if (batch.scores != nullptr) row.score = batch.scores[at];
    row.restored = how == Write::kRestore;
    row.earned = row.restored && batch.earned != nullptr && batch.earned[at];
    if (const Fields::Field* field = fields_.of(row.key); field != nullptr && field->rule.high_priority)
      row.flags = kPriority;
    Region& region = regions_[home.region];
    const std::lock_guard guard(region.lock);
    rebase_scores(region, now);
    const WriteResult result = write_one(region, home, row, how, now);
    written += result == WriteResult::kInserted || result == WriteResult::kReplaced;
    if (results != nullptr) results[at] = result;
  }
  return written;
}

void RowCache::mark_absent(PackedArray<std::uint64_t> keys) noexcept {
  const double now = time();
  sweep_expired(now);
  each_key(keys, [&](std::size_t i, const Home& home, Region& region) {
    rebase_scores(region, now);
    const NewRow row{.key = keys[i], .expires = now + options_.negative_ttl, .flags = kNoRow};
    expect_expiry(region, row, now);
    if (!is_empty(find_living(region, home, now).word)) return;
    const Room room = make_room(region, home, row, now);
    if (room.set == nullptr) return;
    set_order(region, home, room, row, now);
    publish(region, home, room, row, now, row.flags);
  });
}

std::size_t RowCache::erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                            const double* expires) noexcept {
  const double now = time();
  const double ahead = expires == nullptr ? 0.0 : clock_.ahead();
  std::size_t applied = 0;
  sweep_expired(now);
  each_key(keys, [&](std::size_t i, const Home& home, Region& region) {
    rebase_scores(region, now);
    const NewRow row{.key = keys[i],
                     .version = versions[i],
                     .expires = expires != nullptr ? expires[i] - ahead : now + options_.tombstone_ttl,
                     .flags = kNoRow | kPriority};
    expect_expiry(region, row, now);
    const Entry entry = find_living(region, home, now);
    // Of two statements of one version, the deletion holds.
    const bool newer = row.version > entry.header.version ||
                       (row.version == entry.header.version && !is_tombstone(entry.word));
    // A negative entry knows no version.
    const bool versioned = !is_empty(entry.word) && !is_negative(entry.word);
    if (versioned ? !newer : region.floor != 0 && row.version <= region.floor) {
      ++region.counts.updates_stale;
      return;
    }
    const Room room = is_empty(entry.word) ? make_room(region, home, row, now) : Room(entry);
    if (room.set == nullptr) {
      // No room for a tombstone: nothing as old as this may come in any more.
      region.floor = std::max(region.floor, row.version);
    } else {
      publish(region, home, room, row, now, row.flags);
      set_order(region, home, room, row, now);
    }
    ++region.counts.erased;
    ++region.counts.updates_applied;
    ++applied;
  });
  return applied;
}

std::size_t RowCache::forget(PackedArray<std::uint64_t> keys) noexcept {
  std::size_t there = 0;
  each_key(keys, [&](std::size_t, const Home& home, Region& region) {
    const Entry entry = find(home);
    if (is_empty(entry.word)) return;
    empty(region, entry);
    ++there;
  });
  return there;
}

std::size_t RowCache::feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept {
  const double now = time();
  std::size_t resident = 0;
  sweep_expired(now);
  each_key(keys, [&](std::size_t i, const Home& home, Region& region) {
    rebase_scores(region, now);
    const Entry entry = find_living(region, home, now);
    if (!has_row(entry.word)) return;
    ++resident;
    if (!scores()) return;
    std::atomic<std::uint32_t>& order = entry.set->order[entry.way];
    const double height = gset_.height(now, region.landmark.load(std::memory_order_relaxed));
    // Readers that score accesses may be at the same word.
    std::uint32_t word = order.load(std::memory_order_relaxed);
    while (!order.compare_exchange_weak(
        word,
        ScoreWord::encode(gset_.with_sample(ScoreWord::decode(word), positive[i], height),
                          region.next_random()),
        std::memory_order_relaxed)) {
    }
    if (options_.policy == CachePolicy::kGset && (entry.word & kScored) == 0)
      entry.set->hot[entry.way].store(entry.word | kScored, std::memory_order_seq_cst);
  });
  return resident;
}

}  // namespace pepnet::cache
