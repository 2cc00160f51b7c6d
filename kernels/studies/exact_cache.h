// A fully associative cache, every policy in its exact form: what the cache that serves is measured against.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/gset.h"
#include "cache/row_cache.h"
#include "studies/policy.h"

namespace pepnet::studies {

// For one thread. A row is one number: what a policy decides does not depend on how wide rows are.
class ExactCache {
 public:
  // rows: how many it holds. beta, r, interval: `cache::Gset`'s, for gset and lfu. Throws
  // std::invalid_argument naming the option that is out of range, std::bad_alloc.
  ExactCache(std::size_t rows, CachePolicy policy, double beta, double r, double interval,
             std::uint64_t seed);

  // Writes the value of each key that has one to `values` [N]; found [N]: which keys have one. Returns how
  // many.
  std::size_t lookup(PackedArray<std::uint64_t> keys, float* values, bool* found) noexcept;

  // Inserts rows, or replaces their values. scores [N] S at this moment, of use in gset; NaN, or null: none.
  void write(PackedArray<std::uint64_t> keys, const float* values, const float* scores) noexcept;

  // Key by key: a lookup, and where it misses an insert of 0. hits [N] or null. Returns how many hit.
  std::size_t replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept;

  // As RowCache::feedback.
  std::size_t feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept;

  // S of each key now [N], float64; NaN where the key is not there or the policy keeps no scores.
  void scores(PackedArray<std::uint64_t> keys, double* scores) const noexcept;

  void set_time(double now) noexcept { now_ = now; }  // in the unit of `interval`; 0 at first
  std::size_t size() const noexcept { return size_; }
  std::size_t capacity_rows() const noexcept { return entries_.size(); }

 private:
  auto key_of() const noexcept {
    return [this](Id id) { return entries_[id].key; };
  }
  Id access(std::uint64_t key) noexcept;
  void insert(std::uint64_t key, float value, float score) noexcept;
  void start_score(Entry& entry, float score) noexcept;
  bool keeps_scores() const noexcept {
    return policy_name_ == CachePolicy::kGset || policy_name_ == CachePolicy::kLfu;
  }

  const CachePolicy policy_name_;
  const cache::Gset gset_;
  Entries entries_;
  SlotIndex index_;
  std::unique_ptr<Policy> policy_;
  std::size_t size_ = 0;  // entries below are in use
  std::uint64_t accesses_ = 0;
  double now_ = 0.0;
};

}  // namespace pepnet::studies
