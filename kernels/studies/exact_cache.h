// What the cache that serves is measured against: every policy in its exact form, and Belady's MIN.
#pragma once

#include <cstdint>
#include <list>
#include <set>
#include <unordered_map>

#include "cache/gset.h"
#include "cache/row_cache.h"

namespace pepnet::studies {

// A fully associative cache, for one thread. A row is one number: what a policy decides does not depend on
// how wide rows are. Every method that adds rows throws std::bad_alloc.
class ExactCache {
 public:
  // rows: how many it holds. beta, r, interval: `cache::Gset`'s, for gset and lfu. Throws
  // std::invalid_argument naming the option that is out of range.
  ExactCache(std::size_t rows, CachePolicy policy, double beta, double r, double interval);
  ExactCache(const ExactCache&) = delete;  // what it holds points into itself
  ExactCache& operator=(const ExactCache&) = delete;

  // Writes the value of each key that has one to `values` [N, 1]; found [N]: which keys have one. Returns how
  // many.
  std::size_t lookup(PackedArray<std::uint64_t> keys, OutView values, bool* found);

  // Inserts rows, or replaces their values. scores [N] S at this moment, of use in gset; NaN, or null: none.
  void write(PackedArray<std::uint64_t> keys, const float* values, const float* scores);

  // Key by key: a lookup, and where it misses an insert of 0. hits [N] or null. Returns how many hit.
  std::size_t replay(PackedArray<std::uint64_t> keys, bool* hits);

  // As RowCache::feedback.
  std::size_t feedback(PackedArray<std::uint64_t> keys, const bool* positive);

  // S of each key now [N], float64; NaN where the key is not there or the policy keeps no scores.
  void scores(PackedArray<std::uint64_t> keys, double* scores) const;

  // In the unit of `interval`; 0 at first. Throws std::invalid_argument unless finite.
  void set_time(double now);
  std::size_t size() const noexcept { return index_.size(); }
  std::size_t capacity_rows() const noexcept { return rows_; }

 private:
  struct Entry {
    std::uint64_t key;
    float value;
    bool in_main;              // s3fifo: not in the small queue
    int frequency = 0;         // sieve: used since the hand passed; s3fifo: accesses, 3 at most
    bool scored = false;       // its score came with it or by labels: accesses leave it alone
    double score = 0.0;        // log2, as `cache::Gset` keeps it; only where the policy scores
    std::uint64_t access = 0;  // running number of the last access, for equal scores
  };
  using Queue = std::list<Entry>;  // the oldest first
  struct WorthLess {
    bool operator()(const Entry* a, const Entry* b) const noexcept {
      return a->score != b->score ? a->score < b->score : a->access < b->access;
    }
  };
  // Keys that s3fifo evicted lately, without their rows.
  struct Ghosts {
    std::list<std::uint64_t> keys;  // the oldest first
    std::unordered_map<std::uint64_t, std::list<std::uint64_t>::iterator> index;

    bool take(std::uint64_t key);  // whether it was there; it is not any longer
    void add(std::uint64_t key, std::size_t most);
  };

  Entry* find(std::uint64_t key) const;
  Entry* access(std::uint64_t key);
  void insert(std::uint64_t key, float value, float score);
  void evict();
  Queue::iterator victim();
  Queue::iterator sieve_victim();
  Queue::iterator s3fifo_victim();
  void start_score(Entry& entry, float score);
  bool keeps_scores() const noexcept { return policy_ == CachePolicy::kGset || policy_ == CachePolicy::kLfu; }

  const std::size_t rows_, small_rows_;  // small_rows_: of s3fifo's small queue
  const CachePolicy policy_;
  const cache::Gset gset_;
  std::unordered_map<std::uint64_t, Queue::iterator> index_;
  Queue small_, main_;                  // all but s3fifo have the main one only
  Queue::iterator hand_ = main_.end();  // sieve; the end: it begins with the oldest again
  std::set<Entry*, WorthLess> ranked_;  // gset and lfu
  Ghosts ghosts_;
  bool full_ = false;  // a row was evicted
  std::uint64_t accesses_ = 0;
  double now_ = 0.0;
};

// Belady's MIN: the most hits any cache of that size can have that holds every row it was asked for. Replays
// `keys` through a cache of `rows` rows that evicts the row whose next access is farthest away (L. A.
// Belady, IBM Systems Journal 5(2), 1966). hits [N] or null. Returns how many hit. Throws std::bad_alloc.
std::size_t belady(PackedArray<std::uint64_t> keys, std::size_t rows, bool* hits);

}  // namespace pepnet::studies
