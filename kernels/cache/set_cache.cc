#include "cache/set_cache.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>
#include <string>

#include "cache/row_codec.h"
#include "cpu/round_up.h"

namespace pepnet::cache {
namespace {

constexpr std::size_t kPage = std::size_t{64} << 10;  // what HugeBuffer rounds up to

constexpr std::size_t kAddressSpace = std::size_t{1} << 47;  // of a process

// Slots that are never filled, so that a row can be written beside the one it replaces.
constexpr std::uint32_t spare_slots(std::uint32_t slots) { return std::min(16U, std::max(2U, slots / 16)); }

SetLayout lay_out(const CacheOptions& options, std::size_t sets) {
  SetLayout layout;
  layout.regions = (sets + kMaxSets - 1) / kMaxSets;
  layout.sets = sets / layout.regions;
  layout.slot_bytes = round_up(sizeof(SlotHeader) + row_bytes(options.type, options.dim), 4);
  layout.ghost_bytes = options.policy == CachePolicy::kS3Fifo ? kWays * sizeof(std::uint16_t) : 0;
  const std::size_t all = layout.regions * layout.sets;
  layout.regions_at = Epochs::kPlaces * sizeof(ReaderPlace);
  layout.sets_at = layout.regions_at + layout.regions * sizeof(Region);
  layout.slots_at = layout.sets_at + all * sizeof(Set);
  layout.ghosts_at = layout.slots_at + all * kWays * layout.slot_bytes;
  layout.bytes = layout.ghosts_at + all * layout.ghost_bytes;
  return layout;
}

std::size_t held_beside(const CacheOptions& options) {
  return sizeof(SetCache) + options.dim * sizeof(float) + options.fields.size() * sizeof(Fields::Field);
}

}  // namespace

SetLayout SetLayout::fit(const CacheOptions& options) {
  const std::size_t beside = held_beside(options);
  const std::size_t budget =
      options.capacity_bytes > beside ? (options.capacity_bytes - beside) / kPage * kPage : 0;
  const SetLayout least = lay_out(options, 1);
  if (least.bytes > budget) {
    throw std::invalid_argument("capacity_bytes: expected at least " +
                                std::to_string(round_up(least.bytes, kPage) + beside) +
                                " for one set of 8 rows, got " + std::to_string(options.capacity_bytes));
  }
  if (budget > kAddressSpace) throw std::bad_alloc();
  const std::size_t a_set = sizeof(Set) + kWays * least.slot_bytes + least.ghost_bytes;
  // Full regions first, so that little is left to be tried.
  std::size_t sets = budget / (a_set * kMaxSets + sizeof(Region)) * kMaxSets + kMaxSets;
  sets = std::min(sets, budget / a_set);
  if (options.max_rows != 0) sets = std::min(sets, std::max<std::size_t>(1, options.max_rows / kWays));
  SetLayout layout = lay_out(options, sets);
  while (layout.bytes > budget) layout = lay_out(options, --sets);
  return layout;
}

SetCache::SetCache(const CacheOptions& options)
    : options_(options),
      layout_(SetLayout::fit(options)),
      homes_(options.seed, static_cast<std::uint32_t>(layout_.regions),
             static_cast<std::uint32_t>(layout_.sets)),
      gset_(options.beta, options.r, options.interval),
      recency_slack_(static_cast<std::int32_t>(layout_.rows() / 64 / 512)),
      fields_(options, layout_.rows()),
      buffer_(layout_.bytes, HugeBuffer::Tail::kSmall),
      places_(reinterpret_cast<ReaderPlace*>(buffer_.data())),
      regions_(reinterpret_cast<Region*>(buffer_.data() + layout_.regions_at)),
      sets_(reinterpret_cast<Set*>(buffer_.data() + layout_.sets_at)),
      ghosts_(reinterpret_cast<std::uint16_t*>(buffer_.data() + layout_.ghosts_at)),
      slots_(buffer_.data() + layout_.slots_at),
      epochs_(places_),
      zeros_(std::make_unique<float[]>(options.dim)) {
  for (std::size_t i = 0; i < Epochs::kPlaces; ++i) new (places_ + i) ReaderPlace{};
  const auto slots = static_cast<std::uint32_t>(layout_.sets * kWays);
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    Region* region = new (regions_ + i) Region;
    region->slots = slots;
    region->limit = slots - spare_slots(slots);
    region->random = mix(options.seed + i) | 1;
  }
  for (std::size_t i = 0; i < layout_.regions * layout_.sets; ++i) {
    Set* set = new (sets_ + i) Set;
    for (auto& word : set->hot) word.store(kEmpty, std::memory_order_relaxed);
    for (auto& word : set->order) word.store(0, std::memory_order_relaxed);
  }
}

SetCache::~SetCache() {
  for (std::size_t i = 0; i < layout_.regions; ++i) regions_[i].~Region();
}

void SetCache::after_fork() noexcept {
  for (std::size_t i = 0; i < Epochs::kPlaces; ++i) places_[i].epoch.store(0, std::memory_order_relaxed);
  new (&sweeping_) std::mutex;
  bool forgotten = false;
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    Region& region = regions_[i];
    if (region.lock.try_lock()) {
      region.lock.unlock();
      continue;
    }
    // A thread that is not here was in the middle of changing it.
    new (&region.lock) std::mutex;
    reset(region);
    forgotten = true;
  }
  if (forgotten) recount_fields();
}

void SetCache::reset(Region& region) noexcept {
  for (std::uint32_t s = 0; s < layout_.sets; ++s) {
    for (auto& word : set_at(number_of(region), s).hot) word.store(kEmpty, std::memory_order_seq_cst);
  }
  region.entries = region.fresh = 0;
  region.free_size = 0;
  region.free_head = kEmpty;
  region.limbo_begin = region.limbo_size = 0;
  region.least_scale = 16;
  region.counts.rows.reset();
  region.counts.negatives.reset();
  region.counts.tombstones.reset();
}

void SetCache::recount_fields() noexcept {
  if (!fields_.any_limit()) return;
  fields_.reset_rows();
  for (std::uint32_t i = 0; i < layout_.regions; ++i) {
    for (std::uint32_t s = 0; s < layout_.sets; ++s) {
      for (const auto& hot : set_at(i, s).hot) {
        const std::uint32_t word = hot.load(std::memory_order_relaxed);
        if (!has_row(word)) continue;
        if (const Fields::Field* field = fields_.of(key_at(i, word)))
          field->rows.fetch_add(1, std::memory_order_relaxed);
      }
    }
  }
}

std::size_t SetCache::memory_bytes() const noexcept { return buffer_.mapped_bytes() + held_beside(options_); }

double SetCache::score_now(const Region& region, std::uint32_t order, double now) const noexcept {
  if (!scores()) return std::numeric_limits<double>::quiet_NaN();
  return gset_.score(ScoreWord::decode(order),
                     gset_.height(now, region.landmark.load(std::memory_order_relaxed)));
}

EntryInfo SetCache::info_of(const Region& region, const Entry& entry, double now) const noexcept {
  EntryInfo info;
  if (is_empty(entry.word)) return info;
  const Expiry expiry(now);
  info.version = entry.header.version;
  if ((entry.word & kExpires) != 0) {
    if (expiry.expired(entry.header.expiry())) return {};
    info.expires = expiry.deadline(entry.header.expiry()) + clock_.ahead();
  }
  info.outcome = has_row(entry.word) ? Outcome::kRow : Outcome::kAbsent;
  info.tombstone = is_tombstone(entry.word);
  info.high_priority = (entry.word & (kPriority | kNoRow)) == kPriority;
  info.scored = (entry.word & kScored) != 0;
  if (has_row(entry.word))
    info.score = static_cast<float>(
        score_now(region, entry.set->order[entry.way].load(std::memory_order_relaxed), now));
  return info;
}

void SetCache::peek(PackedArray<std::uint64_t> keys, EntryInfo* infos) const noexcept {
  const double now = time();
  const_cast<SetCache*>(this)->sweep_expired(now);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Home home = homes_.of(keys[i]);
    Region& region = regions_[home.region];
    const std::lock_guard guard(region.lock);
    infos[i] = info_of(region, find(home), now);
  }
}

CachePart SetCache::part(std::size_t index) const {
  CachePart part;
  const double now = time();
  const_cast<SetCache*>(this)->sweep_expired(now);
  Region& region = regions_[index];
  const auto number = static_cast<std::uint32_t>(index);
  const std::uint32_t present = tick_.load(std::memory_order_relaxed);
  const std::lock_guard guard(region.lock);
  part.keys.reserve(region.entries);
  part.infos.reserve(region.entries);
  part.order.reserve(region.entries);
  part.rows.reserve(region.entries * options_.dim);
  for (std::uint32_t s = 0; s < layout_.sets; ++s) {
    Set& set = set_at(number, s);
    for (unsigned way = 0; way < kWays; ++way) {
      const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed);
      if (is_empty(word)) continue;
      const std::byte* const slot = slot_at(number, word);
      const EntryInfo info = info_of(region, {&set, way, word, load_header(slot)}, now);
      if (info.outcome == Outcome::kMiss) continue;  // expired
      part.keys.push_back(key_at(number, word));
      part.infos.push_back(info);
      part.order.push_back(rank_of(set.order[way].load(std::memory_order_relaxed), present));
      const std::size_t at = part.rows.size();
      part.rows.resize(at + options_.dim);
      if (!has_row(word)) continue;
      with_cache_row(options_.type, [&]<CacheRow type>() noexcept {
        load_row<type>(row_of(slot), part.rows.data() + at, options_.dim);
      });
    }
  }
  return part;
}

std::uint64_t SetCache::rank_of(std::uint32_t order, std::uint32_t present) const noexcept {
  switch (options_.policy) {
    case CachePolicy::kLru:
      return 0xFFFF'FFFF - (present - order);
    case CachePolicy::kSieve:  // visited ones after the others
      return (std::uint64_t{order >> 31} << 32) + (0x3FFF'FFFF - ((present - order) & 0x3FFF'FFFF));
    case CachePolicy::kS3Fifo:
      return (std::uint64_t{(order >> 29) & 7U} << 32) + (0x1FFF'FFFF - ((present - order) & 0x1FFF'FFFF));
    default:
      return order;
  }
}

std::uint64_t SetCache::floor() const noexcept {
  std::uint64_t highest = 0;
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    const std::lock_guard guard(regions_[i].lock);
    highest = std::max(highest, regions_[i].floor);
  }
  return highest;
}

void SetCache::raise_floor(std::uint64_t version) noexcept {
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    const std::lock_guard guard(regions_[i].lock);
    regions_[i].floor = std::max(regions_[i].floor, version);
  }
}

void SetCache::clear() noexcept {
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    Region& region = regions_[i];
    const std::lock_guard guard(region.lock);
    for (std::uint32_t s = 0; s < layout_.sets; ++s) {
      Set& set = set_at(static_cast<std::uint32_t>(i), s);
      for (unsigned way = 0; way < kWays; ++way) {
        const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed);
        if (is_empty(word)) continue;
        const std::uint64_t key = key_at(static_cast<std::uint32_t>(i), word);
        set.hot[way].store(kEmpty, std::memory_order_seq_cst);
        --region.entries;
        count_entry(region, word, key, false);
        retire(region, word);
      }
      if (layout_.ghost_bytes != 0)
        std::fill_n(ghosts_of(static_cast<std::uint32_t>(i), s), kWays, std::uint16_t{0});
    }
    region.floor = 0;
    region.least_scale = 16;
  }
}

CacheStats SetCache::stats() const noexcept {
  CacheStats total;
  epochs_.each_place([&](const ReaderPlace& place) {
    total.hits += place.hits.load(std::memory_order_relaxed);
    total.misses += place.misses.load(std::memory_order_relaxed);
    total.negative_hits += place.negative_hits.load(std::memory_order_relaxed);
  });
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    for (std::size_t c = 0; c < kEntryCounterNames.size(); ++c)
      total.*kEntryCounters<std::uint64_t>[c] += (regions_[i].counts.*kEntryCounters<Count>[c]).read();
  }
  return total;
}

}  // namespace pepnet::cache
