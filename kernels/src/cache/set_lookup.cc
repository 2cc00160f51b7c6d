// The read path: no locks, no allocation, every line asked for before it is needed.
//
// Keys go through in groups of kGroup. Each stage does one step for the whole group, so that the lines of all
// its keys are on their way at the same time:
//
//     1  hash; ask for the first set
//     2  compare tags; ask for the slot, or for the second set
//     3  compare tags in the second set; ask for the slot
//     4  compare the key kept in the slot; hand the row out; tell the policy
#include <algorithm>

#include "cache/row_codec.h"
#include "cache/set_cache.h"

namespace pepnet::cache {
namespace {

constexpr std::size_t kGroup = 64;

void prefetch_for_write(const void* address) noexcept { __builtin_prefetch(address, 1, 3); }

// Copies rows to where they belong.
template <CacheRow type>
struct CopySink {
  OutView out;
  std::size_t dim;

  void row(std::size_t i, const std::byte* row) noexcept { load_row<type>(row, out.row(i), dim); }
  void no_row(std::size_t) noexcept {}
};

// Adds rows up by bag, in the order and arithmetic of pepnet::pool. Offsets are held inside [begin, last] as
// they are read, once each: no value of theirs can lead outside.
template <CacheRow type>
class PoolSink {
 public:
  PoolSink(PackedArray<std::int64_t> offsets, Pooling pooling, OutView out, std::size_t dim,
           std::int64_t first, std::int64_t last) noexcept
      : offsets_(offsets), pooling_(pooling), out_(out), dim_(dim), begin_(first), end_(first), last_(last) {
    open();
  }
  void row(std::size_t i, const std::byte* row) noexcept {
    if (!seek(i)) return;
    float* target = out_.row(bag_);
    each_value<type>(row, dim_, [&](std::size_t d, float value) { target[d] += value; });
  }
  void no_row(std::size_t) noexcept {}
  void finish() noexcept {
    while (bag_ < out_.count) close();
  }

 private:
  bool seek(std::size_t i) noexcept {
    while (bag_ < out_.count && static_cast<std::int64_t>(i) >= end_) close();
    return bag_ < out_.count;
  }
  void open() noexcept {
    if (bag_ == out_.count) return;
    std::fill_n(out_.row(bag_), dim_, 0.0F);
    begin_ = end_;
    end_ = std::clamp(offsets_[bag_ + 1], begin_, last_);
  }
  void close() noexcept {
    const std::int64_t length = end_ - begin_;
    if (pooling_ == Pooling::kMean && length > 1) {
      const auto divisor = static_cast<float>(length);
      float* target = out_.row(bag_);
      for (std::size_t d = 0; d < dim_; ++d) target[d] /= divisor;
    }
    ++bag_;
    open();
  }

  PackedArray<std::int64_t> offsets_;
  Pooling pooling_;
  OutView out_;
  std::size_t dim_;
  std::size_t bag_ = 0;
  std::int64_t begin_, end_, last_;
};

}  // namespace

SetCache::Entry SetCache::find(const Home& home) const noexcept {
  for (const std::uint32_t number : {home.first, home.second}) {
    Set& set = set_at(home.region, number);
    for (unsigned ways = set.matches(home.tag); ways != 0; ways &= ways - 1) {
      const auto way = static_cast<unsigned>(__builtin_ctz(ways));
      const std::uint32_t word = set.hot[way].load(std::memory_order_seq_cst);
      if ((word & kTagBits) != home.tag || is_empty(word)) continue;
      const SlotHeader header = load_header(slot_at(home.region, word));
      if (header.rest() == home.rest()) return {&set, way, word, header};
    }
    if (home.first == home.second) break;
  }
  return {};
}

void SetCache::score_access(const Region& region, std::atomic<std::uint32_t>& order) noexcept {
  const double height = scale_.height(time(), region.landmark.load(std::memory_order_relaxed));
  std::uint32_t word = order.load(std::memory_order_relaxed);
  // The low bits of the word itself are random enough to round by.
  const double sum = log2_sum(ScoreWord::decode(word), scale_.of_negative() + height);
  // Once: if another thread counts at the same moment, or the way changes hands, this access is not counted.
  (void)order.compare_exchange_strong(word, ScoreWord::encode(sum, word * 0x9E37'79B9U),
                                      std::memory_order_relaxed);
}

template <CachePolicy policy>
void SetCache::touch(const Region& region, Set& set, unsigned way, std::uint32_t word,
                     std::uint32_t tick) noexcept {
  std::atomic<std::uint32_t>& order = set.order[way];
  if constexpr (policy == CachePolicy::kLru) {
    order.store(tick, std::memory_order_relaxed);
  } else if constexpr (policy == CachePolicy::kGset || policy == CachePolicy::kLfu) {
    if ((word & kScored) == 0) score_access(region, order);
  } else if constexpr (policy == CachePolicy::kSieve) {
    if ((order.load(std::memory_order_relaxed) & 0x8000'0000U) == 0)
      order.fetch_or(0x8000'0000U, std::memory_order_relaxed);
  } else {
    std::uint32_t seen = order.load(std::memory_order_relaxed);
    if (seen < 0xC000'0000U)  // two bits of frequency on top, up to 3
      (void)order.compare_exchange_strong(seen, seen + 0x4000'0000U, std::memory_order_relaxed);
  }
}

template <CachePolicy policy, CacheRow type, class Sink>
std::size_t SetCache::read(PackedArray<std::uint64_t> keys, std::size_t first, std::size_t last, Sink& sink,
                           Outcome* outcomes, bool counted) noexcept {
  struct Probe {
    Home home;
    Set* set;
    const std::byte* slot;
    std::uint32_t word;
    unsigned way;
    bool unsure;  // a tag matched, but nothing was there to go with it
  };
  const double now = time();
  tend(now);
  const Expiry expiry(now);
  Epochs::Stay stay(epochs_);
  std::size_t hits = 0, absent = 0;
  Probe probes[kGroup];
  std::uint8_t second[kGroup];
  const std::size_t row_size = row_bytes(type, options_.dim);

  for (std::size_t begin = first; begin < last; begin += kGroup) {
    const std::size_t count = std::min(kGroup, last - begin);
    for (std::size_t i = 0; i < count; ++i) {
      Probe& probe = probes[i];
      probe.home = homes_.of(keys[begin + i]);
      probe.set = &set_at(probe.home.region, probe.home.first);
      probe.slot = nullptr;
      probe.unsure = false;
      prefetch(probe.set->hot);
      prefetch_for_write(probe.set->order);
    }

    std::size_t seconds = 0;
    const auto take = [&](Probe& probe) noexcept {
      const unsigned ways = probe.set->matches(probe.home.tag);
      if (ways == 0) return false;
      probe.way = static_cast<unsigned>(__builtin_ctz(ways));
      probe.word = probe.set->hot[probe.way].load(std::memory_order_seq_cst);
      if (is_empty(probe.word)) {
        probe.unsure = true;
        return false;
      }
      probe.slot = slot_at(probe.home.region, probe.word);
      prefetch_range(probe.slot, sizeof(SlotHeader) + row_size);
      return true;
    };
    for (std::size_t i = 0; i < count; ++i) {
      Probe& probe = probes[i];
      if (take(probe)) continue;
      probe.set = &set_at(probe.home.region, probe.home.second);
      prefetch(probe.set->hot);
      prefetch_for_write(probe.set->order);
      second[seconds++] = static_cast<std::uint8_t>(i);
    }
    for (std::size_t s = 0; s < seconds; ++s) (void)take(probes[second[s]]);

    const std::uint32_t tick = counted ? tick_.fetch_add(1, std::memory_order_relaxed) : 0;
    for (std::size_t i = 0; i < count; ++i) {
      const Probe& probe = probes[i];
      Entry entry;
      if (probe.slot != nullptr) {
        entry = {probe.set, probe.way, probe.word, load_header(probe.slot)};
        // Another key with the same tag stands before it: once in some thousand keys.
        if (entry.header.rest() != probe.home.rest() || (entry.word & kTagBits) != probe.home.tag)
          entry = find(probe.home);
      } else if (probe.unsure) {
        entry = find(probe.home);
      }
      Outcome outcome = Outcome::kMiss;
      if (!is_empty(entry.word) && ((entry.word & kExpires) == 0 || !expiry.expired(entry.header.expiry()))) {
        outcome = (entry.word & kNoRow) == 0 ? Outcome::kRow : Outcome::kAbsent;
      }
      if (outcome == Outcome::kRow) {
        sink.row(begin + i, row_of(slot_at(probe.home.region, entry.word)));
        ++hits;
        if (counted) touch<policy>(regions_[probe.home.region], *entry.set, entry.way, entry.word, tick);
      } else {
        sink.no_row(begin + i);
        absent += outcome == Outcome::kAbsent;
      }
      if (outcomes != nullptr) outcomes[begin + i] = outcome;
    }
    stay.renew();
  }
  if (counted) stay.count(hits, last - first - hits - absent, absent);
  return hits;
}

template <class Body>
std::size_t SetCache::with_policy(Body&& body) noexcept {
  return with_cache_row(options_.type, [&]<CacheRow type>() noexcept {
    switch (options_.policy) {
      case CachePolicy::kLru:
        return body.template operator()<CachePolicy::kLru, type>();
      case CachePolicy::kGset:
        return body.template operator()<CachePolicy::kGset, type>();
      case CachePolicy::kLfu:
        return body.template operator()<CachePolicy::kLfu, type>();
      case CachePolicy::kSieve:
        return body.template operator()<CachePolicy::kSieve, type>();
      case CachePolicy::kS3Fifo:
        break;
    }
    return body.template operator()<CachePolicy::kS3Fifo, type>();
  });
}

std::size_t SetCache::lookup(PackedArray<std::uint64_t> keys, OutView out, Outcome* outcomes,
                             bool counted) noexcept {
  return with_policy([&]<CachePolicy policy, CacheRow type>() noexcept {
    CopySink<type> sink{out, options_.dim};
    return read<policy, type>(keys, 0, keys.size(), sink, outcomes, counted);
  });
}

std::size_t SetCache::lookup_pool(PackedArray<std::uint64_t> keys, PackedArray<std::int64_t> offsets,
                                  Pooling pooling, OutView out, Outcome* outcomes, bool counted) noexcept {
  if (out.count == 0) return 0;
  // Offsets that another thread changes meanwhile must not lead outside.
  const auto size = static_cast<std::int64_t>(keys.size());
  const std::int64_t first = std::clamp<std::int64_t>(offsets[0], 0, size);
  const std::int64_t last = std::clamp<std::int64_t>(offsets[out.count], first, size);
  return with_policy([&]<CachePolicy policy, CacheRow type>() noexcept {
    PoolSink<type> sink(offsets, pooling, out, options_.dim, first, last);
    const std::size_t hits = read<policy, type>(keys, static_cast<std::size_t>(first),
                                                static_cast<std::size_t>(last), sink, outcomes, counted);
    sink.finish();
    return hits;
  });
}

std::size_t SetCache::replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept {
  struct Nothing {
    void row(std::size_t, const std::byte*) noexcept {}
    void no_row(std::size_t) noexcept {}
  } sink;
  std::size_t total = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::size_t hit = with_policy([&]<CachePolicy policy, CacheRow type>() noexcept {
      return read<policy, type>(keys, i, i + 1, sink, nullptr, true);
    });
    if (hit == 0) {
      const Home home = homes_.of(keys[i]);
      Region& region = regions_[home.region];
      const double now = time();
      NewRow row;
      row.key = keys[i];
      row.row = zeros_.get();
      const std::lock_guard guard(region.lock);
      settle(region, now);
      (void)write_one(region, home, row, Write::kInsert, now);
    }
    if (hits != nullptr) hits[i] = hit != 0;
    total += hit;
  }
  return total;
}

}  // namespace pepnet::cache
