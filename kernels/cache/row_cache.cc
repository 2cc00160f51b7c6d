#include "cache/row_cache.h"

#include <algorithm>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

#include "cpu/round_up.h"
#include "rows/row_codec.h"

namespace pepnet::cache {
namespace {

constexpr std::size_t kPage = HugeBuffer::kPage;
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
  return sizeof(RowCache) + options.dim * sizeof(float) + options.fields.size() * sizeof(Fields::Field);
}

const CacheOptions& checked(const CacheOptions& options) {
  expect(options.dim >= 1 && options.dim <= 65536, "dim: expected 1 to 65536",
         static_cast<double>(options.dim));
  expect(options.admission >= 0.0 && options.admission <= 1.0, "admission: expected 0 to 1",
         options.admission);
  expect(options.tombstone_ttl > 0.0, "tombstone_ttl: expected seconds above 0", options.tombstone_ttl);
  expect(options.negative_ttl > 0.0, "negative_ttl: expected seconds above 0", options.negative_ttl);
  for (std::size_t i = 0; i < options.fields.size(); ++i) {
    const FieldRule& rule = options.fields[i];
    const std::string name = "fields[" + std::to_string(i) + "]: ";
    for (std::size_t earlier = 0; earlier < i; ++earlier) {
      if (options.fields[earlier].table != rule.table) continue;
      throw std::invalid_argument(name + "expected one rule a table, got two for " +
                                  std::to_string(rule.table));
    }
    expect(rule.ttl > 0.0, name + "ttl: expected more than 0 s", rule.ttl);
    expect(rule.share > 0.0 && rule.share <= 1.0, name + "share: expected above 0 and at most 1", rule.share);
    expect(rule.admission <= 1.0, name + "admission: expected at most 1", rule.admission);
  }
  return options;
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

RowCache::RowCache(const CacheOptions& options)
    : options_(checked(options)),
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

RowCache::~RowCache() {
  for (std::size_t i = 0; i < layout_.regions; ++i) regions_[i].~Region();
}

void RowCache::after_fork() noexcept {
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
  if (!forgotten || !fields_.any_limit()) return;
  fields_.reset_rows();
  for (std::uint32_t i = 0; i < layout_.regions; ++i) {
    each_entry(regions_[i], [&](const Set&, unsigned, std::uint32_t word) {
      if (has_row(word)) fields_.count(key_at(i, word), 1);
    });
  }
}

void RowCache::reset(Region& region) noexcept {
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

std::size_t RowCache::memory_bytes() const noexcept { return buffer_.mapped_bytes() + held_beside(options_); }

EntryInfo RowCache::info_of(const Region& region, const Entry& entry, double now) const noexcept {
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
  if (has_row(entry.word) && scores()) {
    const double height = gset_.height(now, region.landmark.load(std::memory_order_relaxed));
    const std::uint32_t order = entry.set->order[entry.way].load(std::memory_order_relaxed);
    info.score = static_cast<float>(gset_.score(ScoreWord::decode(order), height));
  }
  return info;
}

void RowCache::peek(PackedArray<std::uint64_t> keys, EntryInfo* infos) const noexcept {
  const double now = time();
  const_cast<RowCache*>(this)->sweep_expired(now);
  each_key(keys, [&](std::size_t i, const Home& home, Region& region) {
    infos[i] = info_of(region, find(home), now);
  });
}

CachePart RowCache::part(std::size_t index) const {
  CachePart part;
  const double now = time();
  const_cast<RowCache*>(this)->sweep_expired(now);
  Region& region = regions_[index];
  const auto number = static_cast<std::uint32_t>(index);
  const std::uint32_t present = tick_.load(std::memory_order_relaxed);
  const std::lock_guard guard(region.lock);
  part.keys.reserve(region.entries);
  part.infos.reserve(region.entries);
  part.order.reserve(region.entries);
  part.rows.reserve(region.entries * options_.dim);
  each_entry(region, [&](Set& set, unsigned way, std::uint32_t word) {
    const std::byte* const slot = slot_at(number, word);
    const EntryInfo info = info_of(region, {{&set, way}, word, load_header(slot)}, now);
    if (info.outcome == Outcome::kMiss) return;  // expired
    part.keys.push_back(key_at(number, word));
    part.infos.push_back(info);
    part.order.push_back(rank_of(set.order[way].load(std::memory_order_relaxed), present));
    const std::size_t at = part.rows.size();
    part.rows.resize(at + options_.dim);
    if (!has_row(word)) return;
    with_row_type(options_.type, [&]<RowType type>() noexcept {
      load_row<type>(row_of(slot), part.rows.data() + at, options_.dim);
    });
  });
  return part;
}

std::uint64_t RowCache::rank_of(std::uint32_t order, std::uint32_t present) const noexcept {
  switch (options_.policy) {
    case CachePolicy::kLru:
      return 0xFFFF'FFFF - (present - order);
    case CachePolicy::kSieve:  // visited ones after the others
      return (std::uint64_t{order >> 31} << 32) + (kSieveAge - ((present - order) & kSieveAge));
    case CachePolicy::kS3Fifo:
      return (std::uint64_t{(order >> 29) & 7U} << 32) + (kQueueAge - ((present - order) & kQueueAge));
    default:
      return order;
  }
}

std::uint64_t RowCache::floor() const noexcept {
  std::uint64_t highest = 0;
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    const std::lock_guard guard(regions_[i].lock);
    highest = std::max(highest, regions_[i].floor);
  }
  return highest;
}

void RowCache::raise_floor(std::uint64_t version) noexcept {
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    const std::lock_guard guard(regions_[i].lock);
    regions_[i].floor = std::max(regions_[i].floor, version);
  }
}

void RowCache::clear() noexcept {
  for (std::uint32_t i = 0; i < layout_.regions; ++i) {
    Region& region = regions_[i];
    const std::lock_guard guard(region.lock);
    each_entry(region, [&](Set& set, unsigned way, std::uint32_t) { empty(region, {&set, way}); });
    std::fill_n(ghosts_of(i, 0), layout_.sets * layout_.ghost_bytes / sizeof *ghosts_, std::uint16_t{0});
    region.floor = 0;
    region.least_scale = 16;
  }
}

CacheStats RowCache::stats() const noexcept {
  CacheStats total;
  for (const ReaderPlace& place : std::span(places_, Epochs::kPlaces)) {
    total.hits += place.hits.load(std::memory_order_relaxed);
    total.misses += place.misses.load(std::memory_order_relaxed);
    total.negative_hits += place.negative_hits.load(std::memory_order_relaxed);
  }
  for (std::size_t i = 0; i < layout_.regions; ++i) {
    each_counter<std::uint64_t, Count>([&](const char*, auto of_total, auto of_region) {
      total.*of_total += (regions_[i].counts.*of_region).read();
    });
  }
  return total;
}

}  // namespace pepnet::cache
