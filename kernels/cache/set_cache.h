// The cache that serves: set-associative, two sets a key, readers without locks. docs/cache.md explains it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "cache/after_fork.h"
#include "cache/clock.h"
#include "cache/epochs.h"
#include "cache/expiry.h"
#include "cache/field_rules.h"
#include "cache/key_hash.h"
#include "cache/region.h"
#include "cache/row_cache.h"
#include "cache/score_word.h"
#include "cache/set_layout.h"
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

class SetCache final : public RowCache, private ForkHandler {
 public:
  explicit SetCache(const CacheOptions& options);
  ~SetCache() override;

  std::size_t lookup(PackedArray<std::uint64_t> keys, OutView out, Outcome* outcomes,
                     bool counted) noexcept override;
  std::size_t lookup_pool(PackedArray<std::uint64_t> keys, PackedArray<std::int64_t> offsets, Pooling pooling,
                          OutView out, Outcome* outcomes, bool counted) noexcept override;
  std::size_t write(const RowBatch& batch, Write how, WriteResult* results) noexcept override;
  void mark_absent(PackedArray<std::uint64_t> keys) noexcept override;
  std::size_t erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                    const double* expires) noexcept override;
  std::size_t forget(PackedArray<std::uint64_t> keys) noexcept override;
  std::size_t feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept override;
  void peek(PackedArray<std::uint64_t> keys, EntryInfo* infos) const noexcept override;
  std::size_t replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept override;
  std::size_t parts() const noexcept override { return layout_.regions; }
  CachePart part(std::size_t index) const override;
  void clear() noexcept override;
  std::uint64_t floor() const noexcept override;
  void raise_floor(std::uint64_t version) noexcept override;
  void set_time(double now) noexcept override { clock_.set(now); }
  void step_wall_clock(double seconds) noexcept override { clock_.step(seconds); }
  double time() const noexcept override { return clock_.now(); }
  double unix_time() const noexcept override { return clock_.unix_now(); }
  CacheStats stats() const noexcept override;
  std::size_t capacity_rows() const noexcept override { return layout_.rows(); }
  std::size_t memory_bytes() const noexcept override;

 private:
  // A key's entry: where its hot word is and what it said. word is kEmpty where there is none.
  struct Entry {
    Set* set = nullptr;
    unsigned way = 0;
    std::uint32_t word = kEmpty;
    SlotHeader header{};
  };
  struct Answer {
    Outcome outcome = Outcome::kMiss;
    const std::byte* row = nullptr;
    std::atomic<std::uint32_t>* order = nullptr;
    std::uint32_t word = 0;
  };
  // A way to write to, and what has to leave it.
  struct Room {
    Set* set = nullptr;  // nullptr: none could be made
    unsigned way = 0;
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

  void after_fork() noexcept override;
  void reset(Region& region) noexcept;
  void recount_fields() noexcept;

  // Reading (set_lookup.cc).
  template <class Sink>
  std::size_t read(PackedArray<std::uint64_t> keys, std::size_t first, std::size_t last, Sink& sink,
                   Outcome* outcomes, bool counted) noexcept;
  Entry find(const Home& home) const noexcept;
  [[gnu::noinline]] Answer look_up_rare(std::uint64_t hash, const Expiry& expiry) const noexcept;
  void touch(std::atomic<std::uint32_t>& order, std::uint64_t hash, std::uint32_t word, std::uint32_t tick,
             std::int32_t slack, double present) noexcept;
  void score_access(const Region& region, std::atomic<std::uint32_t>& order, double present) noexcept;

  // Calls work(i, home, region) for each key in order, with its region settled and locked.
  template <class Work>
  void each_key(PackedArray<std::uint64_t> keys, double now, const Work& work) noexcept;

  // Writing, with the region's lock held (set_write.cc).
  Entry find_living(Region& region, const Home& home, double now) noexcept;
  WriteResult write_one(Region& region, const Home& home, const NewRow& row, Write how, double now) noexcept;
  void publish(Region& region, const Home& home, Room room, std::uint32_t slot, const NewRow& row, double now,
               std::uint32_t flags) noexcept;
  double expiry_of(const NewRow& row, double now) const noexcept;
  std::uint32_t take_slot(Region& region) noexcept;  // kEmpty: readers hold all there are
  void retire(Region& region, std::uint32_t word) noexcept;
  void free_slot(Region& region, std::uint32_t slot) noexcept;
  bool reclaim(Region& region) noexcept;
  void prefetch_entry(const Home& home) const noexcept;
  std::uint32_t order_of(Region& region, const Home& home, const NewRow& row, double now) noexcept;
  void rebase_scores(Region& region, double now) noexcept;  // moves the landmark when it is due

  // Eviction (set_evict.cc).
  Room make_room(Region& region, const Home& home, const NewRow& row, double now) noexcept;
  Room victim(Region& region, const Home& home, double now, bool same_field, std::uint16_t table,
              EvictionReason& reason) noexcept;
  bool over_share(const NewRow& row) const noexcept;
  Room replace_of_field(Region& region, const Home& home, const NewRow& row, double now) noexcept;
  Room plain_victim(Region& region, const Home& home) noexcept;
  Room sieve_victim(Region& region, const Home& home, std::uint32_t open_first,
                    std::uint32_t open_second) noexcept;
  Room s3fifo_victim(Region& region, const Home& home, std::uint32_t open_first,
                     std::uint32_t open_second) noexcept;
  void evict(Region& region, Room room, EvictionReason reason) noexcept;
  void empty(Region& region, Room room) noexcept;
  void remember_ghost(std::uint64_t key) noexcept;
  bool take_ghost(const Home& home) noexcept;
  void remove_expired(Region& region, double now) noexcept;
  void expect_expiry(Region& region, const NewRow& row, double now) noexcept;
  void sweep_before(double when) noexcept;
  void sweep_expired(double now) noexcept;  // expired rows, before their codes come round again

  std::uint32_t number_of(const Region& region) const noexcept {
    return static_cast<std::uint32_t>(&region - regions_);
  }
  std::uint64_t key_at(std::uint32_t region, std::uint32_t word) const noexcept;
  EntryInfo info_of(const Region& region, const Entry& entry, double now) const noexcept;
  std::uint64_t rank_of(std::uint32_t order, std::uint32_t present) const noexcept;
  double score_now(const Region& region, std::uint32_t order, double now) const noexcept;
  void count_entry(Region& region, std::uint32_t word, std::uint64_t key, bool added) noexcept;
  // Whether a row comes with a score that accesses leave alone.
  bool comes_scored(const NewRow& row) const noexcept {
    return options_.policy == CachePolicy::kGset && row.score == row.score && !row.earned;
  }
  bool scores() const noexcept {
    return options_.policy == CachePolicy::kGset || options_.policy == CachePolicy::kLfu;
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
