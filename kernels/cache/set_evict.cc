// Eviction: expired rows first, then the row that the policy values least in the two sets of the new key.
#include <algorithm>
#include <utility>

#include "cache/set_cache.h"

namespace pepnet::cache {
namespace {

// Of order words in sieve and s3fifo: when the row came, and what was seen since.
constexpr std::uint32_t kVisited = 0x8000'0000;  // sieve
constexpr std::uint32_t kHand = 0x4000'0000;     // sieve: where the next search begins
constexpr std::uint32_t kSieveAge = 0x3FFF'FFFF;
constexpr std::uint32_t kFrequency = 0xC000'0000;  // s3fifo
constexpr std::uint32_t kOnce = 0x4000'0000;
constexpr std::uint32_t kMain = 0x2000'0000;
constexpr std::uint32_t kQueueAge = 0x1FFF'FFFF;
constexpr unsigned kSpareWays = 3;    // a set with more empty ways has room to spare
constexpr std::uint32_t kGhosts = 7;  // of a set's ways nine tenths
static_assert(kGhosts <= kWays);
constexpr std::uint32_t kPromoted = 2;  // accesses that take a row from the small queue to the main one

std::uint16_t fingerprint(std::uint64_t hash) noexcept {
  const auto print = static_cast<std::uint16_t>(hash >> 20);
  return print == 0 ? std::uint16_t{1} : print;
}

}  // namespace

std::uint64_t SetCache::key_at(std::uint32_t region, std::uint32_t word) const noexcept {
  return homes_.key_of((load_header(slot_at(region, word)).rest() << 16) | (word >> 16));
}

void SetCache::evict(Region& region, Room room, EvictionReason reason) noexcept {
  const std::uint32_t word = room.set->hot[room.way].load(std::memory_order_relaxed);
  const std::uint32_t number = number_of(region);
  const SlotHeader header = load_header(slot_at(number, word));
  // An update of a row that is gone may be older than the row was: nobody remembers but this number.
  region.floor = std::max(region.floor, header.version);
  if (options_.policy == CachePolicy::kS3Fifo && reason == EvictionReason::kPolicy && has_row(word) &&
      (room.set->order[room.way].load(std::memory_order_relaxed) & kMain) == 0)
    remember_ghost(key_at(number, word));
  empty(region, room);
  ++(reason == EvictionReason::kExpired ? region.counts.evicted_expired
     : reason == EvictionReason::kShare ? region.counts.evicted_share
                                        : region.counts.evicted_policy);
}

void SetCache::empty(Region& region, Room room) noexcept {
  const std::uint32_t word = room.set->hot[room.way].load(std::memory_order_relaxed);
  const std::uint64_t key = key_at(number_of(region), word);
  room.set->hot[room.way].store(kEmpty, std::memory_order_seq_cst);
  --region.entries;
  count_entry(region, word, key, false);
  retire(region, word);
}

bool SetCache::over_share(const NewRow& row) const noexcept {
  if (!fields_.any_limit() || row.row == nullptr) return false;
  const Fields::Field* const field = fields_.of(row.key);
  return field != nullptr && field->limit >= 0 && field->rows.load(std::memory_order_relaxed) >= field->limit;
}

// A field at its share gives up a row of its own, if there is one in the two sets.
SetCache::Room SetCache::replace_of_field(Region& region, const Home& home, const NewRow& row,
                                          double now) noexcept {
  EvictionReason reason = EvictionReason::kPolicy;
  const Room room = victim(region, home, now, true, table_of(row.key), reason);
  if (room.set == nullptr) {
    ++region.counts.rejected_share;
  } else {
    evict(region, room, reason == EvictionReason::kExpired ? reason : EvictionReason::kShare);
  }
  return room;
}

SetCache::Room SetCache::make_room(Region& region, const Home& home, const NewRow& row, double now) noexcept {
  EvictionReason reason = EvictionReason::kPolicy;
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
  const Room room = victim(region, home, now, false, 0, reason);
  if (room.set != nullptr) {
    evict(region, room, reason);
    return room;
  }
  if (empty.set == nullptr) {
    ++region.counts.rejected_priority;
    return {};
  }
  // A place for the key but no slot: some other set has to give one up.
  for (std::size_t tried = 0; tried < layout_.sets; ++tried) {
    Home other = home;
    other.first = other.second = region.cursor;
    region.cursor = region.cursor + 1 == layout_.sets ? 0 : region.cursor + 1;
    const Room far = victim(region, other, now, false, 0, reason);
    if (far.set == nullptr) continue;
    evict(region, far, reason);
    return empty;
  }
  ++region.counts.rejected_priority;
  return {};
}

// The usual case, without a branch a way: no row of the two sets expires or is protected.
SetCache::Room SetCache::plain_victim(Region& region, const Home& home) noexcept {
  const std::uint32_t base =
      options_.policy == CachePolicy::kLru ? tick_.load(std::memory_order_relaxed) + 1 : 0;
  Set& first = set_at(number_of(region), home.first);
  Set& second = set_at(number_of(region), home.second);
  const Least least = least_of(first, second, base);
  if ((least.flags & (kExpires | kPriority)) != 0 || !least.any()) return {};
  return {least.set() == 0 ? &first : &second, least.way()};
}

SetCache::Room SetCache::victim(Region& region, const Home& home, double now, bool same_field,
                                std::uint16_t table, EvictionReason& reason) noexcept {
  if (!same_field && (scores() || options_.policy == CachePolicy::kLru)) {
    const Room plain = plain_victim(region, home);
    if (plain.set != nullptr) {
      reason = EvictionReason::kPolicy;
      return plain;
    }
  }
  const Expiry expiry(now);
  const std::uint32_t number = number_of(region);
  const std::uint32_t numbers[2] = {home.first, home.second};
  const unsigned sets = home.first == home.second ? 1 : 2;
  std::uint32_t open[2] = {0, 0};
  std::uint32_t expiring[2] = {0, 0};
  for (unsigned s = 0; s < sets; ++s) {
    Set& set = set_at(number, numbers[s]);
    for (unsigned way = 0; way < kWays; ++way) {
      const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed);
      if (is_empty(word)) continue;
      if (same_field && (!has_row(word) || table_of(key_at(number, word)) != table)) continue;
      expiring[s] |= static_cast<std::uint32_t>((word & kExpires) != 0) << way;
      const bool protected_row = (word & (kPriority | kNoRow)) == kPriority;
      open[s] |= static_cast<std::uint32_t>(!protected_row) << way;
    }
    for (std::uint32_t ways = expiring[s]; ways != 0; ways &= ways - 1)
      prefetch(slot_at(number, set.hot[__builtin_ctz(ways)].load(std::memory_order_relaxed)));
  }
  for (unsigned s = 0; s < sets; ++s) {
    Set& set = set_at(number, numbers[s]);
    for (std::uint32_t ways = expiring[s]; ways != 0; ways &= ways - 1) {
      const auto way = static_cast<unsigned>(__builtin_ctz(ways));
      const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed);
      if (!expiry.expired(load_header(slot_at(number, word)).expiry())) continue;
      reason = EvictionReason::kExpired;
      return {&set, way};
    }
  }
  reason = EvictionReason::kPolicy;
  if ((open[0] | open[1]) == 0) return {};
  if (options_.policy == CachePolicy::kSieve) return sieve_victim(region, home, open[0], open[1]);
  if (options_.policy == CachePolicy::kS3Fifo) return s3fifo_victim(region, home, open[0], open[1]);

  // The smallest number goes. For lru that is the time since an overflow, so that the clock may wrap.
  const std::uint32_t base =
      options_.policy == CachePolicy::kLru ? tick_.load(std::memory_order_relaxed) + 1 : 0;
  Room best;
  std::uint32_t least = 0xFFFF'FFFF;
  for (unsigned s = 0; s < sets; ++s) {
    Set& set = set_at(number, numbers[s]);
    for (std::uint32_t ways = open[s]; ways != 0; ways &= ways - 1) {
      const auto way = static_cast<unsigned>(__builtin_ctz(ways));
      const std::uint32_t value = set.order[way].load(std::memory_order_relaxed) - base;
      if (best.set != nullptr && value >= least) continue;
      best = {&set, way};
      least = value;
    }
  }
  return best;
}

// SIEVE (NSDI '24) within a set: from the hand towards younger rows, visited ones are spared once. Of the two
// sets the one whose victim is older gives way.
SetCache::Room SetCache::sieve_victim(Region& region, const Home& home, std::uint32_t open_first,
                                      std::uint32_t open_second) noexcept {
  const std::uint32_t present = tick_.load(std::memory_order_relaxed);
  struct Search {
    unsigned way = kWays;
    std::uint32_t passed = 0;  // visited ways before it
    std::uint32_t age = 0;
    unsigned next = kWays;  // where the hand goes
  };
  const auto age_of = [&](std::uint32_t order) { return (present - order) & kSieveAge; };
  const auto search = [&](const Set& set, std::uint32_t open) {
    // By age, oldest first.
    unsigned by_age[kWays];
    unsigned count = 0;
    unsigned hand = kWays;
    std::uint32_t order[kWays];
    for (std::uint32_t ways = open; ways != 0; ways &= ways - 1) {
      const auto way = static_cast<unsigned>(__builtin_ctz(ways));
      order[way] = set.order[way].load(std::memory_order_relaxed);
      unsigned at = count++;
      for (; at > 0 && age_of(order[by_age[at - 1]]) < age_of(order[way]); --at) by_age[at] = by_age[at - 1];
      by_age[at] = way;
    }
    for (unsigned i = 0; i < count; ++i) {
      if ((order[by_age[i]] & kHand) != 0) hand = i;
    }
    Search found;
    if (count == 0) return found;
    if (hand == kWays) hand = 0;
    for (unsigned step = 0; step <= count; ++step) {
      const unsigned at = (hand + step) % count;
      const unsigned way = by_age[at];
      if ((order[way] & kVisited) != 0 && (found.passed & (1U << way)) == 0) {
        found.passed |= 1U << way;
        continue;
      }
      found.way = way;
      found.age = age_of(order[way]);
      found.next = at + 1 < count ? by_age[at + 1] : kWays;  // past the youngest: the oldest again
      break;
    }
    return found;
  };
  Set& first = set_at(number_of(region), home.first);
  Set& second = set_at(number_of(region), home.second);
  const Search a = search(first, open_first);
  const Search b = search(second, open_second);
  const bool take_second = a.way == kWays || (b.way != kWays && b.age > a.age);
  Set& set = take_second ? second : first;
  const Search& chosen = take_second ? b : a;
  for (unsigned way = 0; way < kWays; ++way) {
    std::uint32_t keep = ~std::uint32_t{kHand};
    if ((chosen.passed & (1U << way)) != 0) keep &= ~std::uint32_t{kVisited};
    set.order[way].fetch_and(keep, std::memory_order_relaxed);
  }
  if (chosen.next != kWays) set.order[chosen.next].fetch_or(kHand, std::memory_order_relaxed);
  return {&set, chosen.way};
}

// S3-FIFO (SOSP '23) over the two sets as one pool: a small queue of a tenth for rows on trial, a main queue
// in which a row that was used is put back once for each use.
SetCache::Room SetCache::s3fifo_victim(Region& region, const Home& home, std::uint32_t open_first,
                                       std::uint32_t open_second) noexcept {
  Set* const sets[2] = {&set_at(number_of(region), home.first), &set_at(number_of(region), home.second)};
  const std::uint32_t open[2] = {open_first, open_second};
  const auto total = static_cast<unsigned>(__builtin_popcount(open_first) + __builtin_popcount(open_second));
  const unsigned allowed = std::max(1U, (total + 5) / 10);
  for (;;) {
    const std::uint32_t present = tick_.load(std::memory_order_relaxed);
    Room oldest[2];  // small, main
    std::uint32_t ages[2] = {0, 0};
    unsigned small = 0;
    for (unsigned s = 0; s < 2; ++s) {
      for (std::uint32_t ways = open[s]; ways != 0; ways &= ways - 1) {
        const auto way = static_cast<unsigned>(__builtin_ctz(ways));
        const std::uint32_t order = sets[s]->order[way].load(std::memory_order_relaxed);
        const unsigned queue = (order & kMain) != 0 ? 1 : 0;
        small += queue == 0;
        const std::uint32_t age = (present - order) & kQueueAge;
        if (oldest[queue].set != nullptr && age <= ages[queue]) continue;
        oldest[queue] = {sets[s], way};
        ages[queue] = age;
      }
    }
    const bool from_small = oldest[1].set == nullptr || small > allowed;
    const Room room = oldest[from_small ? 0 : 1];
    std::atomic<std::uint32_t>& order = room.set->order[room.way];
    const std::uint32_t seen = order.load(std::memory_order_relaxed);
    const std::uint32_t frequency = seen >> 30;
    const std::uint32_t turn = tick_.fetch_add(1, std::memory_order_relaxed) & kQueueAge;
    if (from_small) {
      if (frequency < kPromoted) return room;
      order.store(kMain | turn, std::memory_order_relaxed);
    } else {
      if (frequency == 0) return room;
      order.store((seen & kFrequency) - kOnce + (kMain | turn), std::memory_order_relaxed);
    }
  }
}

void SetCache::remember_ghost(std::uint64_t key) noexcept {
  const Home home = homes_.of(key);
  std::uint16_t* const ghosts = ghosts_of(home.region, home.first);
  std::copy_backward(ghosts, ghosts + kGhosts - 1, ghosts + kGhosts);
  ghosts[0] = fingerprint(home.hash);
}

bool SetCache::take_ghost(const Home& home) noexcept {
  std::uint16_t* const ghosts = ghosts_of(home.region, home.first);
  std::uint16_t* const found = std::find(ghosts, ghosts + kGhosts, fingerprint(home.hash));
  if (found == ghosts + kGhosts) return false;
  std::copy(found + 1, ghosts + kGhosts, found);
  ghosts[kGhosts - 1] = 0;
  return true;
}

void SetCache::remove_expired(Region& region, double now) noexcept {
  if (region.least_scale < 16) {
    const std::uint32_t number = number_of(region);
    const Expiry expiry(std::min(region.known, now));  // now is earlier when a test has set the clock back
    unsigned least = 16;
    for (std::uint32_t s = 0; s < layout_.sets; ++s) {
      Set& set = set_at(number, s);
      for (unsigned way = 0; way < kWays; ++way) {
        const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed);
        if (is_empty(word) || (word & kExpires) == 0) continue;
        const std::uint16_t code = load_header(slot_at(number, word)).expiry();
        if (expiry.deadline(code) <= now) {
          evict(region, {&set, way}, EvictionReason::kExpired);
        } else {
          least = std::min(least, Expiry::scale_of(code));
        }
      }
    }
    region.least_scale = least;
  }
  region.known = now;
}

void SetCache::sweep_expired(double now) noexcept {
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

void SetCache::expect_expiry(Region& region, const NewRow& row, double now) noexcept {
  const std::uint16_t code = Expiry::encode(expiry_of(row, now), now);
  if (code == Expiry::kNeverCode) return;
  const unsigned scale = Expiry::scale_of(code);
  const double unit = Expiry::unit(std::min(scale, region.least_scale));
  if (scale >= region.least_scale && now <= region.known + Expiry::kUnitsBetween * unit) return;
  // The first of so fine a unit, or a pass is late: codes are looked through now, so that `known` is recent
  // enough.
  remove_expired(region, now);
  region.least_scale = std::min(region.least_scale, scale);
  sweep_before(now + Expiry::kUnitsBetween * Expiry::unit(scale));
}

void SetCache::sweep_before(double when) noexcept {
  double due = sweep_due_.load(std::memory_order_relaxed);
  while (when < due && !sweep_due_.compare_exchange_weak(due, when, std::memory_order_relaxed)) {
  }
}

void SetCache::rebase_scores(Region& region, double now) noexcept {
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
