#include "studies/exact_cache.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace pepnet::studies {
namespace {

constexpr float kNoScore = std::numeric_limits<float>::quiet_NaN();

std::unique_ptr<Policy> policy_of(CachePolicy policy, Entries& entries, std::uint64_t seed) {
  switch (policy) {
    case CachePolicy::kLru:
      return make_lru(entries);
    case CachePolicy::kSieve:
      return make_sieve(entries);
    case CachePolicy::kS3Fifo:
      return make_s3fifo(entries, seed);
    case CachePolicy::kGset:
    case CachePolicy::kLfu:
      break;
  }
  return make_scored(entries);
}

std::size_t checked(std::size_t rows) {
  if (rows == 0 || rows >= kNoId)
    throw std::invalid_argument("rows: expected 1 to 2^32 - 2, got " + std::to_string(rows));
  return rows;
}

}  // namespace

ExactCache::ExactCache(std::size_t rows, CachePolicy policy, double beta, double r, double interval,
                       std::uint64_t seed)
    : policy_name_(policy),
      gset_(beta, r, interval),
      entries_(checked(rows)),
      index_(rows, seed),
      policy_(policy_of(policy, entries_, seed)) {}

// The key's entry, after the policy has seen that it was found; kNoId: it is not there.
Id ExactCache::access(std::uint64_t key) noexcept {
  const Id id = index_.find(key, key_of());
  if (id == kNoId) return id;
  Entry& entry = entries_[id];
  entry.access = ++accesses_;
  if (keeps_scores() && !entry.scored)
    entry.score = gset_.with_sample(entry.score, false, gset_.height(now_));
  policy_->touch(id);
  return id;
}

void ExactCache::insert(std::uint64_t key, float value, float score) noexcept {
  policy_->announce(key);
  Id id = static_cast<Id>(size_);
  if (size_ < entries_.size()) {
    ++size_;
  } else {
    id = policy_->evict();
    index_.erase(entries_[id].key, key_of());
  }
  Entry& entry = entries_[id] = {.key = key, .value = value, .access = ++accesses_};
  start_score(entry, score);
  (void)index_.find_or_insert(key, id, key_of());
  policy_->enter(id);
}

// A row without a score of its own begins with the access that brought it here.
void ExactCache::start_score(Entry& entry, float score) noexcept {
  if (!keeps_scores()) return;
  entry.scored = policy_name_ == CachePolicy::kGset && !std::isnan(score);
  const double height = gset_.height(now_);
  entry.score =
      entry.scored ? gset_.of_score(static_cast<double>(score), height) : gset_.of_sample(false, height);
}

std::size_t ExactCache::lookup(PackedArray<std::uint64_t> keys, float* values, bool* found) noexcept {
  std::size_t hits = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Id id = access(keys[i]);
    found[i] = id != kNoId;
    if (!found[i]) continue;
    values[i] = entries_[id].value;
    ++hits;
  }
  return hits;
}

void ExactCache::write(PackedArray<std::uint64_t> keys, const float* values, const float* scores) noexcept {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const float score = scores == nullptr ? kNoScore : scores[i];
    const Id id = index_.find(keys[i], key_of());
    if (id == kNoId) {
      insert(keys[i], values[i], score);
      continue;
    }
    entries_[id].value = values[i];
    if (policy_name_ != CachePolicy::kGset || std::isnan(score)) continue;
    start_score(entries_[id], score);
    policy_->rescored(id);
  }
}

std::size_t ExactCache::replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept {
  std::size_t found = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const bool hit = access(keys[i]) != kNoId;
    if (!hit) insert(keys[i], 0.0F, kNoScore);
    if (hits != nullptr) hits[i] = hit;
    found += hit;
  }
  return found;
}

std::size_t ExactCache::feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept {
  std::size_t resident = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Id id = index_.find(keys[i], key_of());
    if (id == kNoId) continue;
    ++resident;
    if (!keeps_scores()) continue;
    Entry& entry = entries_[id];
    entry.score = gset_.with_sample(entry.score, positive[i], gset_.height(now_));
    entry.scored = policy_name_ == CachePolicy::kGset;
    policy_->rescored(id);
  }
  return resident;
}

void ExactCache::scores(PackedArray<std::uint64_t> keys, double* scores) const noexcept {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Id id = index_.find(keys[i], key_of());
    scores[i] = id == kNoId || !keeps_scores() ? std::numeric_limits<double>::quiet_NaN()
                                               : gset_.score(entries_[id].score, gset_.height(now_));
  }
}

}  // namespace pepnet::studies
