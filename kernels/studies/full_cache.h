// The fully associative cache: every policy in its exact form, one lock around everything. For studies and
// tests.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cache/after_fork.h"
#include "cache/clock.h"
#include "cache/fields.h"
#include "cache/row_cache.h"
#include "studies/full_decay.h"
#include "studies/full_entry.h"
#include "studies/full_heap.h"
#include "studies/full_index.h"
#include "studies/full_policy.h"

namespace pepnet {

// Throws std::invalid_argument when not even one row fits in the capacity, std::bad_alloc.
std::unique_ptr<RowCache> make_full_cache(const CacheOptions& options);

namespace full {

// Rows of fields with a share below 1 are groups of their own, 1, 2, …; all other entries are group 0.
struct Groups {
  std::vector<std::uint16_t> tables;  // of groups 1, 2, …
  std::vector<std::size_t> quotas;    // rows each group may hold, group 0 first

  Groups(const CacheOptions& options, std::size_t rows);
  Group of(std::uint64_t key) const noexcept;
};

class FullCache final : public RowCache, private cache::Forked {
 public:
  FullCache(const CacheOptions& options, std::size_t rows);

  std::size_t lookup(PackedArray<std::uint64_t> keys, OutView out, Outcome* outcomes,
                     bool counted) noexcept override;
  std::size_t lookup_pool(PackedArray<std::uint64_t> keys, PackedArray<std::int64_t> offsets, Pooling pooling,
                          OutView out, Outcome* outcomes, bool counted) noexcept override;
  std::size_t write(const RowBatch& batch, Write how, Written* results) noexcept override;
  void mark_absent(PackedArray<std::uint64_t> keys) noexcept override;
  std::size_t erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                    const double* expires) noexcept override;
  std::size_t forget(PackedArray<std::uint64_t> keys) noexcept override;
  std::size_t feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept override;
  void peek(PackedArray<std::uint64_t> keys, EntryInfo* infos) const noexcept override;
  std::size_t replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept override;
  std::size_t parts() const noexcept override { return 1; }
  CachePart part(std::size_t index) const override;
  void clear() noexcept override;
  std::uint64_t floor() const noexcept override;
  void raise_floor(std::uint64_t version) noexcept override;
  void set_time(double now) noexcept override { clock_.set(now); }
  void step_wall_clock(double seconds) noexcept override { clock_.step(seconds); }
  double time() const noexcept override { return clock_.now(); }
  double unix_time() const noexcept override { return clock_.unix_now(); }
  CacheStats stats() const noexcept override;
  std::size_t capacity_rows() const noexcept override { return entries_.size(); }
  std::size_t memory_bytes() const noexcept override { return bytes(options_, entries_.size()); }

  // What a cache of `rows` rows takes, all of it allocated when it is made.
  static std::size_t bytes(const CacheOptions& options, std::size_t rows);

 private:
  void after_fork() noexcept override;
  void reset() noexcept;  // all entries, whatever state they are in

  struct NewEntry {
    std::uint64_t key = 0;
    Kind kind = Kind::kRow;
    const float* row = nullptr;  // nullptr: zeros
    std::uint64_t version = 0;
    double expires = kNever;
    float score = 0.0F;     // NaN: none
    bool earned = false;    // by accesses
    bool restored = false;  // from a cache that it was in
  };

  // All with the lock held. full_cache.cc reads, full_write.cc writes.
  Id find(std::uint64_t key) const noexcept;
  Outcome find_outcome(std::uint64_t key, double now, Id& id) const noexcept;
  Outcome access(std::uint64_t key, double now, bool counted, Id& id) noexcept;
  void count(Outcome outcome) noexcept;
  const std::byte* row_at(Id id) const noexcept { return rows_.data() + std::size_t{id} * row_bytes_; }
  EntryInfo info(const Entry& entry, double now) const noexcept;
  bool scores() const noexcept {
    return options_.policy == CachePolicy::kGset || options_.policy == CachePolicy::kLfu;
  }

  Written write_one(const NewEntry& row, Write how, double now) noexcept;
  Id present(std::uint64_t key, double now) noexcept;
  // What is as old as something that was evicted may be older than what its own key had.
  bool above_floor(std::uint64_t version) const noexcept { return floor_ == 0 || version > floor_; }
  Written replace(Id id, const NewEntry& row, double now) noexcept;
  Written admit(const NewEntry& row, double now) noexcept;
  bool admitted(std::uint64_t key, const cache::Fields::Field* field) noexcept;
  bool make_room_in(Group group,
                    double now) noexcept;          // false: the group is at its share, and nothing may go
  Id make_room(Group group, double now) noexcept;  // kNoId: nothing may go
  Id expired(Group group, double now) const noexcept;
  void fill(Id id, const NewEntry& row, double now) noexcept;
  void put_row(Id id, const float* row) noexcept;
  void set_expiry(Id id, double expires) noexcept;
  void start_score(Entry& entry, const NewEntry& row, double now) noexcept;
  void evict(Id id, std::uint64_t CacheStats::* reason, bool by_policy) noexcept;
  void detach(Id id, bool by_policy) noexcept;  // the entry becomes free
  std::uint64_t& held(Kind kind) noexcept;

  const CacheOptions options_;
  const std::size_t row_bytes_;
  const cache::Fields fields_;
  const Groups groups_;
  const Decay decay_;
  cache::Clock clock_;

  mutable std::mutex lock_;
  Entries entries_;
  std::vector<std::byte> rows_;
  Index index_;
  std::vector<ExpiryHeap> expiries_;  // by group
  std::vector<std::size_t> sizes_;    // entries, by group
  std::unique_ptr<Policy> policy_;
  Id free_ = kNoId;             // chained through Entry::older
  std::uint64_t accesses_ = 0;  // running numbers
  std::uint64_t admissions_ = 0;
  std::uint64_t floor_ = 0;  // the highest version that was evicted
  CacheStats stats_;
};

}  // namespace full
}  // namespace pepnet
