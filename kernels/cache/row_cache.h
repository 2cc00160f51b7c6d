// The hot-row cache between an engine and its store: the rows of the most valuable ids in a fixed number of
// bytes. Set-associative, two sets a key, readers without locks. The public half of the class is the
// contract; docs/cache.md explains the rest, and set_layout.h has the layout in memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "cache/after_fork.h"
#include "cache/cache_types.h"
#include "cache/epochs.h"
#include "cache/expiry.h"
#include "cache/field_rules.h"
#include "cache/gset.h"
#include "cache/key_hash.h"
#include "cache/set_layout.h"
#include "rows/bag_sums.h"
#include "threads/huge_buffer.h"

namespace pepnet::cache {

// Where everything lies in the one buffer. The published formula: docs/cache.md.
struct SetLayout {
  std::size_t regions = 0;
  std::size_t sets = 0;         // of one region
  std::size_t slot_bytes = 0;   // header, row, rounded up to 4
  std::size_t ghost_bytes = 0;  // of one set, s3fifo only
  std::size_t regions_at = 0, sets_at = 0, ghosts_at = 0, slots_at = 0;
  std::size_t bytes = 0;

  std::size_t rows() const noexcept { return regions * sets * kWays; }
  // The largest cache of at most `capacity_bytes` and, if not 0, about `max_rows`. Throws
  // std::invalid_argument when not even one set fits.
  static SetLayout fit(const CacheOptions& options);
};

// Every method but set_time may be called from any number of threads at once. Lookups take no lock, wait for
// nobody and allocate nothing.
class RowCache final : private ForkHandler {
 public:
  // Throws std::invalid_argument naming the option and what was expected; std::bad_alloc.
  explicit RowCache(const CacheOptions& options);
  ~RowCache() override;

  // Writes the row of each key that has one to `out` [N rows]; other rows of `out` are left as they are.
  // outcomes[i] says what came; null: not wanted. `counted`: whether statistics and the policy see it.
  // Returns how many rows were written.
  std::size_t lookup(PackedArray<std::uint64_t> keys, OutView out, Outcome* outcomes, bool counted) noexcept;

  // out[b] = mean or sum of the rows of bag b, as pepnet::pool does it. A bag with a key that has no row is
  // left undefined. Returns how many rows were found: all of them, or look at `outcomes` [keys].
  std::size_t lookup_pool(PackedArray<std::uint64_t> keys, PackedArray<std::int64_t> offsets, Pooling pooling,
                          OutView out, Outcome* outcomes, bool counted) noexcept;

  // Writes rows; later ones of the batch see earlier ones. results [N] or null. Returns how many were
  // inserted or replaced.
  std::size_t write(const RowBatch& batch, Write how, WriteResult* results) noexcept;

  // Remembers that the store has no such id, for negative_ttl. Never replaces an entry.
  void mark_absent(PackedArray<std::uint64_t> keys) noexcept;

  // Deletes what is not newer than versions[i], and leaves a tombstone of that version until expires[i]
  // (null: now + tombstone_ttl). Returns how many applied.
  std::size_t erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                    const double* expires) noexcept;

  // Lets go of what is known of the keys, as if it had never come: the store is asked next. Returns how many
  // were there.
  std::size_t forget(PackedArray<std::uint64_t> keys) noexcept;

  // Counts samples that contained the ids, positive where positive[i]: adds β·r or β to the score of those
  // that are resident. Returns how many were. No effect on order in lru, sieve and s3fifo.
  std::size_t feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept;

  // Looks, counting and touching nothing.
  void peek(PackedArray<std::uint64_t> keys, EntryInfo* infos) const noexcept;

  // Key by key: a lookup, and where it misses `write` of a row of zeros by kInsert, with all rules of its
  // field. hits [N] or null. Returns how many hit. What a simulator does with a trace.
  std::size_t replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept;

  std::size_t parts() const noexcept { return layout_.regions; }
  // Copies a part without stopping readers; writers of that part wait. Throws std::bad_alloc.
  CachePart part(std::size_t index) const;

  void clear() noexcept;

  // The highest version that was evicted: of keys that are not here, only newer updates are taken.
  std::uint64_t floor() const noexcept;
  void raise_floor(std::uint64_t version) noexcept;

  // Unix seconds from here on, instead of the clock's; NaN: the clock's again. For tests and simulations.
  void set_time(double now) noexcept { clock_.set(now); }
  // As if the wall clock had been set, by so many seconds in all. For tests.
  void step_wall_clock(double seconds) noexcept { clock_.step(seconds); }
  // Unix seconds, as they would be had nobody set the wall clock since the cache was made: what intervals and
  // durations are counted on.
  double time() const noexcept { return clock_.now(); }
  double unix_time() const noexcept { return clock_.unix_now(); }

  CacheStats stats() const noexcept;
  const CacheOptions& options() const noexcept { return options_; }
  std::size_t capacity_rows() const noexcept { return layout_.rows(); }
  std::size_t memory_bytes() const noexcept;  // never more than capacity_bytes

 private:
  // A way of a set.
  struct Room {
    Set* set = nullptr;  // nullptr: none could be made
    unsigned way = 0;
  };
  // A key's entry: where its hot word is and what it said. word is kEmpty where there is none.
  struct Entry : Room {
    std::uint32_t word = kEmpty;
    SlotHeader header{};
  };
  struct Answer {
    Outcome outcome = Outcome::kMiss;
    const std::byte* row = nullptr;
    std::atomic<std::uint32_t>* order = nullptr;
    std::uint32_t word = 0;
  };
  enum class EvictionReason : std::uint8_t { kExpired, kPolicy, kShare };
  struct NewRow {
    std::uint64_t key = 0;
    const float* row = nullptr;  // nullptr: no row, a tombstone or a negative entry by `flags`
    std::uint64_t version = 0;
    double expires = kNever;
    float score = std::numeric_limits<float>::quiet_NaN();
    bool earned = false;    // by accesses
    bool restored = false;  // from a cache that it was in
    std::uint32_t flags = 0;
  };

  Set& set_at(std::uint32_t region, std::uint32_t set) const noexcept {
    return sets_[std::size_t{region} * layout_.sets + set];
  }
  std::byte* slot_at(std::uint32_t region, std::uint32_t word) const noexcept {
    return slots_ + (std::size_t{region} * layout_.sets * kWays + (word & kSlotBits)) * layout_.slot_bytes;
  }
  std::uint16_t* ghosts_of(std::uint32_t region, std::uint32_t set) const noexcept {
    return ghosts_ + (std::size_t{region} * layout_.sets + set) * kWays;
  }
  std::uint32_t number_of(const Region& region) const noexcept {
    return static_cast<std::uint32_t>(&region - regions_);
  }
  std::uint64_t key_at(std::uint32_t region, std::uint32_t word) const noexcept {
    return homes_.key_of((load_header(slot_at(region, word)).rest() << 16) | (word >> 16));
  }
  // Calls visit(set, way, word) for each way of a region that is not empty.
  template <class Visit>
  void each_entry(const Region& region, const Visit& visit) const {
    for (std::uint32_t s = 0; s < layout_.sets; ++s) {
      Set& set = set_at(number_of(region), s);
      for (unsigned way = 0; way < kWays; ++way) {
        const std::uint32_t word = set.hot[way].load(std::memory_order_relaxed);
        if (!is_empty(word)) visit(set, way, word);
      }
    }
  }
  // Calls work(i, home, region) for each key in order, with its region locked.
  template <class Work>
  void each_key(PackedArray<std::uint64_t> keys, const Work& work) const noexcept {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const Home home = homes_.of(keys[i]);
      Region& region = regions_[home.region];
      const std::lock_guard guard(region.lock);
      work(i, home, region);
    }
  }

  void after_fork() noexcept override;
  void reset(Region& region) noexcept;
  EntryInfo info_of(const Region& region, const Entry& entry, double now) const noexcept;
  std::uint64_t rank_of(std::uint32_t order, std::uint32_t present) const noexcept;

  // Reading (set_lookup.cc).
  template <class Sink>
  std::size_t read(PackedArray<std::uint64_t> keys, std::size_t first, std::size_t last, Sink& sink,
                   Outcome* outcomes, bool counted) noexcept;
  Entry find(const Home& home) const noexcept;
  [[gnu::noinline]] Answer look_up_rare(std::uint64_t hash, const Expiry& expiry) const noexcept;
  void touch(std::atomic<std::uint32_t>& order, std::uint64_t hash, std::uint32_t word, std::uint32_t tick,
             std::int32_t slack, double present) noexcept;
  void score_access(const Region& region, std::atomic<std::uint32_t>& order, double present) noexcept;

  // Writing, with the region's lock held (set_write.cc).
  Entry find_living(Region& region, const Home& home, double now) noexcept;
  WriteResult write_one(Region& region, const Home& home, const NewRow& row, Write how, double now) noexcept;
  void publish(Region& region, const Home& home, Room room, const NewRow& row, double now,
               std::uint32_t flags) noexcept;
  double expiry_of(const NewRow& row, double now) const noexcept;
  std::uint32_t take_slot(Region& region) noexcept;
  void retire(Region& region, std::uint32_t word) noexcept;
  bool reclaim(Region& region) noexcept;
  void prefetch_entry(const Home& home) const noexcept;
  void set_order(Region& region, const Home& home, Room room, const NewRow& row, double now) noexcept;
  void rebase_scores(Region& region, double now) noexcept;  // moves the landmark when it is due
  void count_entry(Region& region, std::uint32_t word, std::uint64_t key, bool added) noexcept;

  // Eviction (set_evict.cc).
  Room make_room(Region& region, const Home& home, const NewRow& row, double now) noexcept;
  Room evict_one(Region& region, const Home& home, double now, const std::uint16_t* table) noexcept;
  Room victim(Region& region, const Home& home, double now, const std::uint16_t* table,
              bool& expired) noexcept;
  bool over_share(const NewRow& row) const noexcept;
  Room replace_of_field(Region& region, const Home& home, const NewRow& row, double now) noexcept;
  Room sieve_victim(Set* const (&sets)[2], const std::uint32_t (&open)[2]) noexcept;
  Room s3fifo_victim(Set* const (&sets)[2], const std::uint32_t (&open)[2]) noexcept;
  void evict(Region& region, Room room, EvictionReason reason) noexcept;
  void empty(Region& region, Room room) noexcept;
  void remember_ghost(std::uint64_t key) noexcept;
  bool take_ghost(const Home& home) noexcept;
  void remove_expired(Region& region, double now) noexcept;
  void expect_expiry(Region& region, const NewRow& row, double now) noexcept;
  void sweep_expired(double now) noexcept;  // expired rows, before their codes come round again

  // Whether a row comes with a score that accesses leave alone.
  bool comes_scored(const NewRow& row) const noexcept {
    return options_.policy == CachePolicy::kGset && row.score == row.score && !row.earned;
  }
  bool scores() const noexcept {
    return options_.policy == CachePolicy::kGset || options_.policy == CachePolicy::kLfu;
  }
  // Order words are compared as counted from here: for lru that is the time since an overflow, so that the
  // clock may wrap.
  std::uint32_t order_base() const noexcept {
    return options_.policy == CachePolicy::kLru ? tick_.load(std::memory_order_relaxed) + 1 : 0;
  }

  const CacheOptions options_;
  const SetLayout layout_;
  const Homes homes_;
  const Gset gset_;
  // lru: how far a row's clock may lag behind before it is set again, a 64th of the time a full turn-over
  // takes.
  const std::int32_t recency_slack_;
  Fields fields_;
  HugeBuffer buffer_;
  ReaderPlace* places_;
  Region* regions_;
  Set* sets_;
  std::uint16_t* ghosts_;
  std::byte* slots_;
  Epochs epochs_;
  std::unique_ptr<float[]> zeros_;  // [dim], what replay inserts
  Clock clock_;
  std::mutex sweeping_;
  std::atomic<double> sweep_due_{kNever};
  // Of its own line: every lookup adds to it.
  alignas(2 * kCacheLine) std::atomic<std::uint32_t> tick_{1};
};

}  // namespace pepnet::cache

namespace pepnet {

using cache::RowCache;

}  // namespace pepnet
