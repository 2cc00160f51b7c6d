// Eviction: expired rows first, then the row that the policy values least in the two sets of the new key.
#include <algorithm>
#include <utility>

#include "cache/row_cache.h"

namespace pepnet::cache {
namespace {

constexpr unsigned kSpareWays = 3;    // a set with more empty ways has room to spare
constexpr std::uint32_t kGhosts = 7;  // of a set's ways nine tenths
static_assert(kGhosts <= kWays);
constexpr std::uint32_t kPromoted = 2;  // accesses that take a row from the small queue to the main one

std::uint16_t fingerprint(std::uint64_t hash) noexcept {
  const auto print = static_cast<std::uint16_t>(hash >> 20);
  return print == 0 ? std::uint16_t{1} : print;
}

// Calls visit(set, way) for each way whose bit is set, set by set.
template <class Visit>
void each_way(Set* const (&sets)[2], const std::uint32_t (&ways)[2], const Visit& visit) {
  for (unsigned s = 0; s < 2; ++s) {
    for (std::uint32_t left = ways[s]; left != 0; left &= left - 1)
      visit(*sets[s], static_cast<unsigned>(__builtin_ctz(left)));
  }
}

}  // namespace

void RowCache::evict(Region& region, Room room, EvictionReason reason) noexcept {
  const std::uint32_t word = room.set->hot[room.way].load(std::memory_order_relaxed);
  const std::uint32_t number = number_of(region);
  // An update of a row that is gone may be older than the row was: nobody remembers but this number.
  region.floor = std::max(region.floor, load_header(slot_at(number, word)).version);
  if (options_.policy == CachePolicy::kS3Fifo && reason == EvictionReason::kPolicy && has_row(word) &&
      (room.set->order[room.way].load(std::memory_order_relaxed) & kMain) == 0)
    remember_ghost(key_at(number, word));
  empty(region, room);
  ++(reason == EvictionReason::kExpired ? region.counts.evicted_expired
     : reason == EvictionReason::kShare ? region.counts.evicted_share
                                        : region.counts.evicted_policy);
}

void RowCache::empty(Region& region, Room room) noexcept {
  const std::uint32_t word = room.set->hot[room.way].load(std::memory_order_relaxed);
  const std::uint64_t key = key_at(number_of(region), word);
  room.set->hot[room.way].store(kEmpty, std::memory_order_seq_cst);
  --region.entries;
  count_entry(region, word, key, false);
  retire(region, word);
}

bool RowCache::over_share(const NewRow& row) const noexcept {
  if (!fields_.any_limit() || row.row == nullptr) return false;
  const Fields::Field* const field = fields_.of(row.key);
  return field != nullptr && field->limit >= 0 && field->rows.load(std::memory_order_relaxed) >= field->limit;
}

// Evicts a row of the key's two sets, one of the field `table` where that is given.
RowCache::Room RowCache::evict_one(Region& region, const Home& home, double now,
                                   const std::uint16_t* table) noexcept {
  bool expired = false;
  const Room room = victim(region, home, now, table, expired);
  if (room.set == nullptr) return room;
  evict(region, room,
        expired            ? EvictionReason::kExpired
        : table != nullptr ? EvictionReason::kShare
                           : EvictionReason::kPolicy);
  return room;
}

// A field at its share gives up a row of its own, if there is one in the two sets.
RowCache::Room RowCache::replace_of_field(Region& region, const Home& home, const NewRow& row,
                                          double now) noexcept {
  const std::uint16_t table = table_of(row.key);
  const Room room = evict_one(region, home, now, &table);
  if (room.set == nullptr) ++region.counts.rejected_share;
  return room;
}

RowCache::Room RowCache::make_room(Region& region, const Home& home, const NewRow& row, double now) noexcept {
  if (over_share(row)) return replace_of_field(region, home, row, now);
  // The first set while it has room to spare, for it is looked into first; then the one with more room, so
  // that few sets are full before most are.
  Room empty;
  unsigned most = 0;
  for (const std::uint32_t number : {home.first, home.second}) {
    Set& set = set_at(home.region, number);
    unsigned free = 0, way_of = 0;
    for (unsigned way = 0; way < kWays; ++way) {
      if (!is_empty(set.hot[way].load(std::memory_order_relaxed))) continue;
      ++free;
      way_of = way;
    }
    if (free <= most) continue;
    most = free;
    empty = {&set, way_of};
    if (free > kSpareWays) break;
  }
  if (empty.set != nullptr && region.entries < region.limit) return empty;
  if (const Room room = evict_one(region, home, now, nullptr); room.set != nullptr) return room;
  // A place for the key but no slot: some other set has to give one up.
  for (std::size_t tried = 0; empty.set != nullptr && tried < layout_.sets; ++tried) {
    Home other = home;
    other.first = other.second = region.cursor;
    region.cursor = region.cursor + 1 == layout_.sets ? 0 : region.cursor + 1;
    if (evict_one(region, other, now, nullptr).set != nullptr) return empty;
  }
  ++region.counts.rejected_priority;
  return {};
}

// Of the two sets the row that leaves: one that has expired, or else the one that the policy values least.
RowCache::Room RowCache::victim(Region& region, const Home& home, double now, const std::uint16_t* table,
                                bool& expired) noexcept {
  const std::uint32_t number = number_of(region);
  Set* const sets[2] = {&set_at(number, home.first), &set_at(number, home.second)};
  const std::uint32_t base = order_base();
  if (table == nullptr && (scores() || options_.policy == CachePolicy::kLru)) {
    // The usual case, without a branch a way: no row of the two sets expires or is protected.
    const Least least = least_of(*sets[0], *sets[1], base);
    if ((least.flags & (kExpires | kPriority)) == 0 && least.any()) return {sets[least.set()], least.way()};
  }
  std::uint32_t open[2] = {0, 0}, expiring[2] = {0, 0};
  for (unsigned s = 0; s < (sets[0] == sets[1] ? 1 : 2); ++s) {
    for (unsigned way = 0; way < kWays; ++way) {
      const std::uint32_t word = sets[s]->hot[way].load(std::memory_order_relaxed);
      if (is_empty(word)) continue;
      if (table != nullptr && (!has_row(word) || table_of(key_at(number, word)) != *table)) continue;
      expiring[s] |= static_cast<std::uint32_t>((word & kExpires) != 0) << way;
      const bool protected_row = (word & (kPriority | kNoRow)) == kPriority;
      open[s] |= static_cast<std::uint32_t>(!protected_row) << way;
    }
  }
  const auto slot_of = [&](const Set& set, unsigned way) {
    return slot_at(number, set.hot[way].load(std::memory_order_relaxed));
  };
  each_way(sets, expiring, [&](Set& set, unsigned way) { prefetch(slot_of(set, way)); });
  const Expiry expiry(now);
  Room found;
  each_way(sets, expiring, [&](Set& set, unsigned way) {
    if (found.set == nullptr && expiry.expired(load_header(slot_of(set, way)).expiry())) found = {&set, way};
  });
  expired = found.set != nullptr;
  if (expired || (open[0] | open[1]) == 0) return found;
  if (options_.policy == CachePolicy::kSieve) return sieve_victim(sets, open);
  if (options_.policy == CachePolicy::kS3Fifo) return s3fifo_victim(sets, open);

  std::uint32_t least = 0;
  each_way(sets, open, [&](Set& set, unsigned way) {
    const std::uint32_t value = set.order[way].load(std::memory_order_relaxed) - base;
    if (found.set != nullptr && value >= least) return;
    found = {&set, way};
    least = value;
  });
  return found;
}

// SIEVE (NSDI '24) within a set: from the hand towards younger rows, visited ones are spared once. Of the two
// sets the one whose victim is older gives way.
RowCache::Room RowCache::sieve_victim(Set* const (&sets)[2], const std::uint32_t (&open)[2]) noexcept {
  const std::uint32_t present = tick_.load(std::memory_order_relaxed);
  struct Search {
    Set* set = nullptr;
    unsigned way = kWays;
    std::uint32_t passed = 0;  // visited ways before it
    std::uint32_t age = 0;
    unsigned next = kWays;  // where the hand goes
  };
  const auto search = [&](Set* set, std::uint32_t ways) {
    Search found{.set = set};
    std::uint32_t order[kWays];
    unsigned by_age[kWays];
    unsigned count = 0, at = 0;
    const auto age_of = [&](unsigned way) { return (present - order[way]) & kSieveAge; };
    for (; ways != 0; ways &= ways - 1) {
      by_age[count] = static_cast<unsigned>(__builtin_ctz(ways));
      order[by_age[count]] = set->order[by_age[count]].load(std::memory_order_relaxed);
      ++count;
    }
    if (count == 0) return found;
    std::sort(by_age, by_age + count, [&](unsigned a, unsigned b) { return age_of(a) > age_of(b); });
    for (unsigned i = 0; i < count; ++i) {
      if ((order[by_age[i]] & kHand) != 0) at = i;
    }
    for (; (order[by_age[at]] & kVisited) != 0; at = (at + 1) % count) {
      order[by_age[at]] &= ~kVisited;
      found.passed |= 1U << by_age[at];
    }
    found.way = by_age[at];
    found.age = age_of(found.way);
    if (at + 1 < count) found.next = by_age[at + 1];  // past the youngest: the oldest again
    return found;
  };
  const Search first = search(sets[0], open[0]), second = search(sets[1], open[1]);
  const bool take_second = first.way == kWays || (second.way != kWays && second.age > first.age);
  const Search& chosen = take_second ? second : first;
  for (unsigned way = 0; way < kWays; ++way) {
    const bool spared = (chosen.passed & (1U << way)) != 0;
    chosen.set->order[way].fetch_and(~(kHand | (spared ? kVisited : 0)), std::memory_order_relaxed);
  }
  if (chosen.next != kWays) chosen.set->order[chosen.next].fetch_or(kHand, std::memory_order_relaxed);
  return {chosen.set, chosen.way};
}

// S3-FIFO (SOSP '23) over the two sets as one pool: a small queue of a tenth for rows on trial, a main queue
// in which a row that was used is put back once for each use.
RowCache::Room RowCache::s3fifo_victim(Set* const (&sets)[2], const std::uint32_t (&open)[2]) noexcept {
  const auto total = static_cast<unsigned>(__builtin_popcount(open[0]) + __builtin_popcount(open[1]));
  const unsigned allowed = std::max(1U, (total + 5) / 10);
  for (;;) {
    const std::uint32_t present = tick_.load(std::memory_order_relaxed);
    Room oldest[2];  // small, main
    std::uint32_t ages[2] = {0, 0};
    unsigned small = 0;
    each_way(sets, open, [&](Set& set, unsigned way) {
      const std::uint32_t order = set.order[way].load(std::memory_order_relaxed);
      const unsigned queue = (order & kMain) != 0 ? 1 : 0;
      small += queue == 0;
      const std::uint32_t age = (present - order) & kQueueAge;
      if (oldest[queue].set != nullptr && age <= ages[queue]) return;
      oldest[queue] = {&set, way};
      ages[queue] = age;
    });
    const bool from_small = oldest[1].set == nullptr || small > allowed;
    const Room room = oldest[from_small ? 0 : 1];
    std::atomic<std::uint32_t>& order = room.set->order[room.way];
    const std::uint32_t seen = order.load(std::memory_order_relaxed);
    const std::uint32_t turn = tick_.fetch_add(1, std::memory_order_relaxed) & kQueueAge;
    if (seen < (from_small ? kPromoted : 1) * kOnce) return room;
    order.store(from_small ? kMain | turn : (seen & kFrequency) - kOnce + (kMain | turn),
                std::memory_order_relaxed);
  }
}

void RowCache::remember_ghost(std::uint64_t key) noexcept {
  const Home home = homes_.of(key);
  std::uint16_t* const ghosts = ghosts_of(home.region, home.first);
  std::copy_backward(ghosts, ghosts + kGhosts - 1, ghosts + kGhosts);
  ghosts[0] = fingerprint(home.hash);
}

bool RowCache::take_ghost(const Home& home) noexcept {
  std::uint16_t* const ghosts = ghosts_of(home.region, home.first);
  std::uint16_t* const found = std::find(ghosts, ghosts + kGhosts, fingerprint(home.hash));
  if (found == ghosts + kGhosts) return false;
  std::copy(found + 1, ghosts + kGhosts, found);
  ghosts[kGhosts - 1] = 0;
  return true;
}

void RowCache::remove_expired(Region& region, double now) noexcept {
  if (region.least_scale < 16) {
    const Expiry expiry(std::min(region.known, now));  // now is earlier when a test has set the clock back
    unsigned least = 16;
    each_entry(region, [&](Set& set, unsigned way, std::uint32_t word) {
      if ((word & kExpires) == 0) return;
      const std::uint16_t code = load_header(slot_at(number_of(region), word)).expiry();
      if (expiry.deadline(code) <= now) {
        evict(region, {&set, way}, EvictionReason::kExpired);
      } else {
        least = std::min(least, Expiry::scale_of(code));
      }
    });
    region.least_scale = least;
  }
  region.known = now;
}

void RowCache::sweep_expired(double now) noexcept {
  const double due = sweep_due_.load(std::memory_order_relaxed);
  if (now < due) return;
  // Readers pass by while one thread does it, as long as the codes can be read without it.
  std::unique_lock sweeping(sweeping_, std::defer_lock);
  if (now < due + 512.0 * Expiry::kQuarter) {
    if (!sweeping.try_lock()) return;
  } else {
    sweeping.lock();
  }
  if (now < sweep_due_.load(std::memory_order_relaxed)) return;
  double next = kNever;
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    Region& region = regions_[i];
    const std::lock_guard guard(region.lock);
    remove_expired(region, now);
    if (region.least_scale < 16)
      next = std::min(next, now + Expiry::kUnitsBetween * Expiry::unit(region.least_scale));
  }
  // Rows written meanwhile are due no sooner than a pass that begins now.
  sweep_due_.store(std::min(next, now + Expiry::kUnitsBetween * Expiry::kQuarter), std::memory_order_relaxed);
}

void RowCache::expect_expiry(Region& region, const NewRow& row, double now) noexcept {
  const std::uint16_t code = Expiry::encode(expiry_of(row, now), now);
  if (code == Expiry::kNeverCode) return;
  const unsigned scale = Expiry::scale_of(code);
  const double unit = Expiry::unit(std::min(scale, region.least_scale));
  if (scale >= region.least_scale && now <= region.known + Expiry::kUnitsBetween * unit) return;
  // The first of so fine a unit, or a pass is late: codes are looked through now, so that `known` is recent
  // enough.
  remove_expired(region, now);
  region.least_scale = std::min(region.least_scale, scale);
  const double when = now + Expiry::kUnitsBetween * Expiry::unit(scale);
  double due = sweep_due_.load(std::memory_order_relaxed);
  while (when < due && !sweep_due_.compare_exchange_weak(due, when, std::memory_order_relaxed)) {
  }
}

void RowCache::rebase_scores(Region& region, double now) noexcept {
  if (!scores()) return;
  const double landmark = region.landmark.load(std::memory_order_relaxed);
  const double height = gset_.height(now, landmark);
  if (!(std::fabs(height) > ScoreWord::kRebase)) return;  // so does a clock that is no number
  region.landmark.store(gset_.interval_of(now), std::memory_order_seq_cst);
  // Of a clock at infinity the shift is as large as any that leaves nothing of a score.
  constexpr double kMost = 0x1p33;
  const auto shift = std::llround(std::clamp(height * ScoreWord::kOne, -kMost, kMost));
  for (std::uint32_t s = 0; s < layout_.sets; ++s) {
    for (auto& order : set_at(number_of(region), s).order) {
      std::uint32_t word = order.load(std::memory_order_relaxed);
      for (bool done = word == ScoreWord::kLowest; !done;) {
        const long long moved = std::clamp(static_cast<long long>(word) - shift, 1LL, 0xFFFF'FFFFLL);
        done =
            order.compare_exchange_weak(word, static_cast<std::uint32_t>(moved), std::memory_order_relaxed);
      }
    }
  }
}

}  // namespace pepnet::cache
