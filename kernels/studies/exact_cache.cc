#include "studies/exact_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <stdexcept>
#include <utility>
#include <vector>

namespace pepnet::studies {
namespace {

constexpr float kNoScore = std::numeric_limits<float>::quiet_NaN();
constexpr double kSmallShare = 0.10, kGhostShare = 0.90;  // of the cache: libCacheSim's
constexpr int kMostFrequency = 3, kToMain = 2;            // likewise

std::size_t share_of(std::size_t rows, double share) {
  return static_cast<std::size_t>(static_cast<double>(rows) * share);
}

constexpr std::size_t kNoMore = std::numeric_limits<std::size_t>::max();

// next[i]: where the key of access i comes again, kNoMore where it does not.
std::vector<std::size_t> next_accesses(const PackedArray<std::uint64_t>& keys) {
  std::vector<std::size_t> next(keys.size(), kNoMore);
  std::unordered_map<std::uint64_t, std::size_t> following;
  for (std::size_t i = keys.size(); i-- > 0;) {
    const auto [at, last] = following.try_emplace(keys[i], i);
    if (!last) next[i] = std::exchange(at->second, i);
  }
  return next;
}

}  // namespace

ExactCache::ExactCache(std::size_t rows, CachePolicy policy, double beta, double r, double interval)
    : rows_(rows), small_rows_(share_of(rows, kSmallShare)), policy_(policy), gset_(beta, r, interval) {
  if (rows == 0) throw std::invalid_argument("rows: expected 1 or more, got 0");
}

void ExactCache::set_time(double now) {
  cache::expect(std::isfinite(now), "now: expected a finite time", now);
  now_ = now;
}

ExactCache::Entry* ExactCache::find(std::uint64_t key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &*found->second;
}

// The key's entry, after the policy has seen that it was found; null: it is not there.
ExactCache::Entry* ExactCache::access(std::uint64_t key) {
  const auto found = index_.find(key);
  if (found == index_.end()) return nullptr;
  Entry& entry = *found->second;
  switch (policy_) {
    case CachePolicy::kLru:
      main_.splice(main_.end(), main_, found->second);
      break;
    case CachePolicy::kSieve:
      entry.frequency = 1;
      break;
    case CachePolicy::kS3Fifo:
      entry.frequency = std::min(entry.frequency + 1, kMostFrequency);
      break;
    case CachePolicy::kGset:
    case CachePolicy::kLfu: {
      auto place = ranked_.extract(&entry);
      entry.access = ++accesses_;
      if (!entry.scored) entry.score = gset_.with_sample(entry.score, false, gset_.height(now_));
      ranked_.insert(std::move(place));
      break;
    }
  }
  return &entry;
}

void ExactCache::insert(std::uint64_t key, float value, float score) {
  const bool returns = ghosts_.take(key);
  if (index_.size() == rows_) evict();
  const bool to_main = policy_ != CachePolicy::kS3Fifo || returns || (!full_ && small_.size() >= small_rows_);
  Queue& queue = to_main ? main_ : small_;
  const auto entry = queue.insert(queue.end(), {.key = key, .value = value, .in_main = to_main});
  index_.emplace(key, entry);
  if (!keeps_scores()) return;
  entry->access = ++accesses_;
  start_score(*entry, score);
  ranked_.insert(&*entry);
}

// A row without a score of its own begins with the access that brought it here.
void ExactCache::start_score(Entry& entry, float score) {
  entry.scored = policy_ == CachePolicy::kGset && !std::isnan(score);
  const double height = gset_.height(now_);
  entry.score =
      entry.scored ? gset_.of_score(static_cast<double>(score), height) : gset_.of_sample(false, height);
}

void ExactCache::evict() {
  full_ = true;
  const Queue::iterator gone = victim();
  if (keeps_scores()) ranked_.erase(&*gone);
  if (!gone->in_main) ghosts_.add(gone->key, share_of(rows_, kGhostShare));
  index_.erase(gone->key);
  (gone->in_main ? main_ : small_).erase(gone);
}

ExactCache::Queue::iterator ExactCache::victim() {
  switch (policy_) {
    case CachePolicy::kLru:  // the row that was used least recently
      return main_.begin();
    case CachePolicy::kSieve:
      return sieve_victim();
    case CachePolicy::kS3Fifo:
      return s3fifo_victim();
    case CachePolicy::kGset:
    case CachePolicy::kLfu:
      break;
  }
  return index_.at((*ranked_.begin())->key);  // of equal scores the row that was used least recently
}

// SIEVE (Zhang et al., NSDI '24): one queue in order of arrival. A hand goes from its tail to its head and
// round again: it takes the mark off entries that were used and evicts the first entry without a mark. No
// entry moves when it is used.
ExactCache::Queue::iterator ExactCache::sieve_victim() {
  auto at = hand_;
  for (;; ++at) {
    if (at == main_.end()) at = main_.begin();
    if (at->frequency == 0) break;
    at->frequency = 0;
  }
  hand_ = std::next(at);
  return at;
}

// S3-FIFO (Yang et al., SOSP '23). New entries go to a small queue of a tenth of the cache; those used twice
// there move on to the main queue, others leave, and only their key is kept for as long as 0.9 caches of
// further keys. A key that comes back in that time goes to the main queue at once. There, the oldest entry is
// put back with one use less (of three that count at most), or leaves if it has none.
ExactCache::Queue::iterator ExactCache::s3fifo_victim() {
  const bool from_small = main_.size() <= rows_ - small_rows_;
  while (from_small && !small_.empty()) {
    const auto oldest = small_.begin();
    if (oldest->frequency < kToMain) return oldest;
    oldest->frequency = 0;
    oldest->in_main = true;
    main_.splice(main_.end(), small_, oldest);
  }
  for (;;) {
    const auto oldest = main_.begin();
    if (oldest->frequency == 0) return oldest;
    --oldest->frequency;
    main_.splice(main_.end(), main_, oldest);
  }
}

bool ExactCache::Ghosts::take(std::uint64_t key) {
  const auto found = index.extract(key);
  if (found.empty()) return false;
  keys.erase(found.mapped());
  return true;
}

void ExactCache::Ghosts::add(std::uint64_t key, std::size_t most) {
  if (most == 0) return;
  if (keys.size() == most) (void)take(keys.front());
  index.emplace(key, keys.insert(keys.end(), key));
}

std::size_t ExactCache::lookup(PackedArray<std::uint64_t> keys, OutView values, bool* found) {
  std::size_t hits = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Entry* const entry = access(keys[i]);
    found[i] = entry != nullptr;
    hits += found[i];
    if (entry != nullptr) *values.row(i) = entry->value;
  }
  return hits;
}

void ExactCache::write(PackedArray<std::uint64_t> keys, const float* values, const float* scores) {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const float score = scores == nullptr ? kNoScore : scores[i];
    Entry* const entry = find(keys[i]);
    if (entry == nullptr) {
      insert(keys[i], values[i], score);
      continue;
    }
    entry->value = values[i];
    if (policy_ != CachePolicy::kGset || std::isnan(score)) continue;
    auto place = ranked_.extract(entry);
    start_score(*entry, score);
    ranked_.insert(std::move(place));
  }
}

std::size_t ExactCache::replay(PackedArray<std::uint64_t> keys, bool* hits) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const bool hit = access(keys[i]) != nullptr;
    if (!hit) insert(keys[i], 0.0F, kNoScore);
    if (hits != nullptr) hits[i] = hit;
    found += hit;
  }
  return found;
}

std::size_t ExactCache::feedback(PackedArray<std::uint64_t> keys, const bool* positive) {
  std::size_t resident = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Entry* const entry = find(keys[i]);
    if (entry == nullptr) continue;
    ++resident;
    if (!keeps_scores()) continue;
    auto place = ranked_.extract(entry);
    entry->score = gset_.with_sample(entry->score, positive[i], gset_.height(now_));
    entry->scored = policy_ == CachePolicy::kGset;
    ranked_.insert(std::move(place));
  }
  return resident;
}

void ExactCache::scores(PackedArray<std::uint64_t> keys, double* scores) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Entry* const entry = find(keys[i]);
    scores[i] = entry == nullptr || !keeps_scores() ? std::numeric_limits<double>::quiet_NaN()
                                                    : gset_.score(entry->score, gset_.height(now_));
  }
}

std::size_t belady(PackedArray<std::uint64_t> keys, std::size_t rows, bool* hits) {
  const std::vector<std::size_t> next = next_accesses(keys);
  // A row is known by its next access. Where a row hits, its old entry stays in the heap and never comes to
  // the top: it lies before the present, and the rows that are there have later ones.
  std::priority_queue<std::size_t> awaited;
  std::vector<bool> held(keys.size());
  std::size_t size = 0, found = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (hits != nullptr) hits[i] = held[i];
    found += held[i];
    if (rows == 0) continue;
    if (!held[i] && ++size > rows) {
      if (awaited.top() != kNoMore) held[awaited.top()] = false;
      awaited.pop();
      --size;
    }
    awaited.push(next[i]);
    if (next[i] != kNoMore) held[next[i]] = true;
  }
  return found;
}

}  // namespace pepnet::studies
