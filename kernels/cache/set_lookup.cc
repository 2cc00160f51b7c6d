// The read path: no locks, no allocation, every line asked for before it is needed.
//
// Each key goes through four stages, some keys apart, so that the lines of many keys are on their way while
// others are handed out:
//
//     1  hash; ask for the first set
//     2  compare tags; ask for the slot, or for the second set
//     3  where it was not in the first: compare tags in the second set; ask for the slot
//     4  compare the key kept in the slot; hand the row out; tell the policy
//
// What is done for each key is kept short, and what is rare (a tag that stands for another key, an expiry, no
// row) out of the way: the core looks some 300 instructions ahead, and what lies in between delays the next
// request.
#include <algorithm>

#include "cache/row_cache.h"
#include "rows/row_codec.h"

namespace pepnet::cache {
namespace {

// How many keys behind the first stage the others are.
constexpr std::size_t kCompare = 8;
constexpr std::size_t kLookAgain = 12;
constexpr std::size_t kHandOut = 18;
constexpr std::size_t kRing = 32;
// Between groups a reader lets go of what it has seen, so that writers wait for it for some 20 µs at most.
constexpr std::size_t kGroup = 512;

// Copies rows to where they belong. kDim is 0, or the width that the compiler may count on.
template <RowType type, std::size_t kDim>
struct CopySink {
  OutView out;
  std::size_t dim;

  std::size_t row_bytes() const noexcept { return pepnet::row_bytes(type, kDim != 0 ? kDim : dim); }
  void row(std::size_t i, const std::byte* row) noexcept {
    float* const target = out.row(i);
    if constexpr (kDim != 0) {
      static_assert(type == RowType::kFloat32 && kDim % 4 == 0);
      for (std::size_t d = 0; d < kDim; d += 4) std::memcpy(target + d, row + 4 * d, 16);
    } else {
      load_row<type>(row, target, dim);
    }
  }
};

// Adds rows up by bag.
template <RowType type>
struct PoolSink {
  BagSums sums;
  std::size_t dim;

  std::size_t row_bytes() const noexcept { return pepnet::row_bytes(type, dim); }
  void row(std::size_t i, const std::byte* row) noexcept {
    if (float* const target = sums.target(i))
      each_value<type>(row, dim, [&](std::size_t d, float value) { target[d] += value; });
  }
};

}  // namespace

RowCache::Entry RowCache::find(const Home& home) const noexcept {
  for (const std::uint32_t number : {home.first, home.second}) {
    Set& set = set_at(home.region, number);
    for (unsigned ways = set.matches(home.tag); ways != 0; ways &= ways - 1) {
      const auto way = static_cast<unsigned>(__builtin_ctz(ways));
      const std::uint32_t word = set.hot[way].load(std::memory_order_seq_cst);
      if ((word & kTagBits) != home.tag || is_empty(word)) continue;
      const SlotHeader header = load_header(slot_at(home.region, word));
      if (header.rest() == home.rest()) return {{&set, way}, word, header};
    }
    if (home.first == home.second) break;
  }
  return {};
}

void RowCache::score_access(const Region& region, std::atomic<std::uint32_t>& order,
                            double present) noexcept {
  static const Log2Sum log2_sum_of;
  // Rounding needs fresh numbers: one that depends on the word alone decides the same way for ever.
  thread_local std::uint32_t random = 0x9E37'79B9;
  random = random * 1664525 + 1013904223;
  const double landmark = region.landmark.load(std::memory_order_seq_cst);
  std::uint32_t word = order.load(std::memory_order_seq_cst);
  // Words and landmark are moved together: what was read on both sides of a move fits to nothing.
  if (region.landmark.load(std::memory_order_seq_cst) != landmark) return;
  const double added = gset_.of_sample(false, gset_.height_of(present, landmark));
  // Once: if another thread counts at the same moment, or the way changes hands, this access is not counted.
  (void)order.compare_exchange_strong(word,
                                      ScoreWord::encode(log2_sum_of(ScoreWord::decode(word), added), random),
                                      std::memory_order_relaxed);
}

void RowCache::touch(std::atomic<std::uint32_t>& order, std::uint64_t hash, std::uint32_t word,
                     std::uint32_t tick, std::int32_t slack, double present) noexcept {
  // The same way for all keys of a call: predicted, and a template for each policy takes a compiler half a
  // minute.
  switch (options_.policy) {
    case CachePolicy::kLru:
      // A row that was just used is not written again: threads that share hot rows would pass their lines to
      // and fro.
      // Signed: another thread's clock may be ahead.
      if (static_cast<std::int32_t>(tick - order.load(std::memory_order_relaxed)) > slack)
        order.store(tick, std::memory_order_relaxed);
      break;
    case CachePolicy::kGset:
    case CachePolicy::kLfu:
      if ((word & kScored) == 0) score_access(regions_[homes_.of_hash(hash).region], order, present);
      break;
    case CachePolicy::kSieve:
      if ((order.load(std::memory_order_relaxed) & kVisited) == 0)
        order.fetch_or(kVisited, std::memory_order_relaxed);
      break;
    case CachePolicy::kS3Fifo: {
      std::uint32_t seen = order.load(std::memory_order_relaxed);
      if (seen < kFrequency)  // two bits on top, up to 3
        (void)order.compare_exchange_strong(seen, seen + kOnce, std::memory_order_relaxed);
      break;
    }
  }
}

// What is rare about a key: it is not where the first matching tag pointed, or there is no row to serve.
RowCache::Answer RowCache::look_up_rare(std::uint64_t hash, const Expiry& expiry) const noexcept {
  const Home home = homes_.of_hash(hash);
  const Entry entry = find(home);
  if (is_empty(entry.word)) return {};
  if ((entry.word & kExpires) != 0 && expiry.expired(entry.header.expiry())) return {};
  if ((entry.word & kNoRow) != 0) return {Outcome::kAbsent, nullptr, nullptr, 0};
  return {Outcome::kRow, row_of(slot_at(home.region, entry.word)), &entry.set->order[entry.way], entry.word};
}

template <class Sink>
std::size_t RowCache::read(PackedArray<std::uint64_t> keys, std::size_t first, std::size_t last, Sink& sink,
                           Outcome* outcomes, bool counted) noexcept {
  struct Probe {
    std::uint64_t hash;
    Set* set;
    const std::byte* slot;  // before a tag has matched: of the region's slots the first
    std::uint32_t word;     // kEmpty: no tag has matched
    std::uint32_t way;
  };
  static_assert(kRing > kHandOut && kLookAgain > kCompare && kHandOut > kLookAgain);
  const double now = time();
  sweep_expired(now);
  const double present = gset_.interval_of(now);
  const Expiry expiry(now);
  Epochs::Stay stay(epochs_);
  std::size_t hits = 0, absent = 0;
  Probe ring[kRing];
  // Copies: the compiler cannot know that writing rows leaves members alone.
  const Homes homes = homes_;
  Set* const sets = sets_;
  const std::byte* const slots = slots_;
  const std::size_t region_sets = layout_.sets, slot_bytes = layout_.slot_bytes;
  const std::size_t region_bytes = region_sets * kWays * slot_bytes;
  const std::size_t touched = sink.row_bytes() + sizeof(SlotHeader);
  const std::int32_t slack = recency_slack_;
  std::uint32_t tick = 0;

  const auto ask = [&](std::size_t i) noexcept {
    const Home home = homes.of(keys[i]);
    Set* const set = sets + home.region * region_sets + home.first;
    prefetch(set);
    ring[i % kRing] = {home.hash, set, slots + home.region * region_bytes, kEmpty, 0};
  };
  const auto take = [&](Probe& probe, unsigned ways) noexcept {
    probe.way = static_cast<std::uint32_t>(__builtin_ctz(ways));
    probe.word = probe.set->hot[probe.way].load(std::memory_order_seq_cst);
    probe.slot += (probe.word & kSlotBits) * slot_bytes;
    prefetch_range(probe.slot, touched);
  };
  const auto compare = [&](std::size_t i) noexcept {
    Probe& probe = ring[i % kRing];
    const unsigned ways = probe.set->matches(tag_of(probe.hash));
    if (ways != 0) {
      take(probe, ways);
      return;
    }
    const Home home = homes.of_hash(probe.hash);
    probe.set = sets + home.region * region_sets + home.second;
    prefetch(probe.set);
  };
  const auto look_again = [&](std::size_t i) noexcept {
    Probe& probe = ring[i % kRing];
    if (!is_empty(probe.word)) return;
    if (const unsigned ways = probe.set->matches(tag_of(probe.hash)); ways != 0) take(probe, ways);
  };
  const auto hand_out = [&](std::size_t i) noexcept {
    const Probe& probe = ring[i % kRing];
    // Of an ordinary row: the right key, no expiry. The tag is compared once more, for the word was loaded
    // after it.
    if (!is_empty(probe.word) && load_header(probe.slot).key_and_expiry == (probe.hash & ~kTagMask) &&
        (probe.word & (kTagBits | kNoRow)) == tag_of(probe.hash)) {
      sink.row(i, row_of(probe.slot));
      ++hits;
      if (counted) touch(probe.set->order[probe.way], probe.hash, probe.word, tick, slack, present);
      if (outcomes != nullptr) outcomes[i] = Outcome::kRow;
      return;
    }
    const Answer answer = look_up_rare(probe.hash, expiry);
    if (answer.outcome == Outcome::kRow) {
      sink.row(i, answer.row);
      ++hits;
      if (counted) touch(*answer.order, probe.hash, answer.word, tick, slack, present);
    }
    absent += answer.outcome == Outcome::kAbsent;
    if (outcomes != nullptr) outcomes[i] = answer.outcome;
  };

  for (std::size_t begin = first; begin < last; begin += kGroup) {
    const std::size_t size = std::min(kGroup, last - begin);
    if (counted) tick = tick_.fetch_add(1, std::memory_order_relaxed);
    for (std::size_t i = 0; i < size + kHandOut; ++i) {
      if (i < size) ask(begin + i);
      if (i - kCompare < size) compare(begin + i - kCompare);  // below 0 it is a very large number
      if (i - kLookAgain < size) look_again(begin + i - kLookAgain);
      if (i < kHandOut) continue;
      hand_out(begin + i - kHandOut);
    }
    stay.renew();
  }
  if (counted) stay.count(hits, last - first - hits - absent, absent);
  return hits;
}

std::size_t RowCache::lookup(PackedArray<std::uint64_t> keys, OutView out, Outcome* outcomes,
                             bool counted) noexcept {
  return with_row_type(options_.type, [&]<RowType type>() noexcept {
    const auto copy = [&]<std::size_t kDim>() noexcept {
      CopySink<type, kDim> sink{out, options_.dim};
      return read(keys, 0, keys.size(), sink, outcomes, counted);
    };
    if constexpr (type == RowType::kFloat32) {
      switch (options_.dim) {  // the usual widths
        case 16:
          return copy.template operator()<16>();
        case 32:
          return copy.template operator()<32>();
        case 40:
          return copy.template operator()<40>();
        case 64:
          return copy.template operator()<64>();
        default:
          break;
      }
    }
    return copy.template operator()<0>();
  });
}

std::size_t RowCache::lookup_pool(PackedArray<std::uint64_t> keys, PackedArray<std::int64_t> offsets,
                                  Pooling pooling, OutView out, Outcome* outcomes, bool counted) noexcept {
  return with_row_type(options_.type, [&]<RowType type>() noexcept {
    PoolSink<type> sink{BagSums(offsets, keys.size(), pooling, out, options_.dim), options_.dim};
    const std::size_t hits = read(keys, sink.sums.first(), sink.sums.last(), sink, outcomes, counted);
    sink.sums.finish();
    return hits;
  });
}

std::size_t RowCache::replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept {
  struct Nothing {
    std::size_t row_bytes() const noexcept { return 0; }
    void row(std::size_t, const std::byte*) noexcept {}
  } sink;
  std::size_t total = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::size_t hit = read(keys, i, i + 1, sink, nullptr, true);
    if (hit == 0) (void)write({.keys = keys.part(i, 1), .rows = zeros_.get()}, Write::kInsert, nullptr);
    if (hits != nullptr) hits[i] = hit != 0;
    total += hit;
  }
  return total;
}

}  // namespace pepnet::cache
