// What a row cache is told, and what it answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/named.h"
#include "rows/rows.h"

namespace pepnet {

enum class CachePolicy : std::uint8_t { kLru, kGset, kLfu, kSieve, kS3Fifo };
constexpr Named<CachePolicy> kPolicyNames[] = {{"lru", CachePolicy::kLru},
                                               {"gset", CachePolicy::kGset},
                                               {"lfu", CachePolicy::kLfu},
                                               {"sieve", CachePolicy::kSieve},
                                               {"s3fifo", CachePolicy::kS3Fifo}};

constexpr double kNever = std::numeric_limits<double>::infinity();

// What one field's rows are treated like. The field is the table number in a key's top 16 bits.
struct FieldRule {
  std::uint16_t table = 0;
  bool high_priority = false;  // never evicted by score, only when expired
  double ttl = kNever;         // seconds; a row that comes without an expiry gets now + ttl
  double share = 1.0;          // of the pool's rows that the field may hold
  double admission = -1.0;     // probability that an unseen id is admitted; below 0: the cache's
};

struct CacheOptions {
  std::size_t dim = 0;
  RowType type = RowType::kFloat32;
  std::size_t capacity_bytes = 0;
  CachePolicy policy = CachePolicy::kLru;
  std::size_t max_rows = 0;  // a bound on rows below what the bytes allow; 0: none. For studies
  // Of GSET's score (gset.h); an access counts as a negative sample for a row without a score of its own, in
  // gset, and for every row in lfu.
  double beta = 0.1;
  double r = 3.0;
  double interval = 86400.0;  // seconds
  // Probability that an unseen id is admitted by insert, fill and update. Below 1 it costs a random draw.
  double admission = 1.0;
  double tombstone_ttl = 3600.0;
  double negative_ttl = 60.0;
  std::uint64_t seed = 0;
  std::vector<FieldRule> fields;
};

// One answer a key.
enum class Outcome : std::uint8_t {
  kMiss = 0,    // nothing is known: ask the store
  kRow = 1,     // the row was written
  kAbsent = 2,  // known not to exist (negative entry or tombstone): serve the default row, do not ask
};

// N rows to be written. Null pointers stand for "none given": no scores, version 0, no expiry.
struct RowBatch {
  PackedArray<std::uint64_t> keys;
  const float* rows = nullptr;  // [N, dim], `stride` floats apart
  std::ptrdiff_t stride = 0;
  const float* scores = nullptr;            // [N] S at this moment; NaN: none
  const std::uint64_t* versions = nullptr;  // [N]
  const double* expires = nullptr;          // [N] Unix seconds; kNever: never
  const bool* earned = nullptr;             // [N] kRestore: the score is of accesses, which go on counting
};

enum class Write : std::uint8_t {
  kInsert,       // by the user or a fill from the store: replaces a row of the same or an older version
  kUpdate,       // replaces a row of an older version only
  kUpdateKnown,  // kUpdate of keys of which something is known here; others are rejected
  kRestore,      // kInsert of what was in a cache before: admitted for certain, and lfu takes its score
  kPut,          // kInsert that replaces whatever is there: who writes knows the order
  kPutKnown,     // kPut of keys of which something is known here; others are rejected
};

// What became of a key that was written.
enum class WriteResult : std::uint8_t {
  kStale = 0,     // a newer version is there, or may have been evicted since
  kInserted = 1,  // was not there
  kReplaced = 2,
  kRejected = 3,  // by probability, by its field's share, or because all rows in the way have high priority
};

// What became of entries (updates_…: of updates and erase), and how many there are now: each is named once.
// clang-format off
#define PEPNET_ENTRY_COUNTERS(X) \
  X(inserted) X(replaced) X(stale) X(rejected_admission) X(rejected_share) X(rejected_priority) \
  X(updates_applied) X(updates_stale) X(evicted_expired) X(evicted_policy) X(evicted_share) X(erased) \
  X(rows) X(negatives) X(tombstones)
// clang-format on
template <class Number>
struct EntryCounts {
#define PEPNET_COUNTER(name) Number name{};
  PEPNET_ENTRY_COUNTERS(PEPNET_COUNTER)
#undef PEPNET_COUNTER
};
// Calls visit(name, member of EntryCounts<A>, member of EntryCounts<B>) for each.
template <class A, class B = A, class Visit>
void each_counter(const Visit& visit) {
#define PEPNET_COUNTER(name) visit(#name, &EntryCounts<A>::name, &EntryCounts<B>::name);
  PEPNET_ENTRY_COUNTERS(PEPNET_COUNTER)
#undef PEPNET_COUNTER
}

struct CacheStats : EntryCounts<std::uint64_t> {
  std::uint64_t hits = 0, misses = 0, negative_hits = 0;  // keys looked up, every repeat counted
};

// What is known of one entry; for tests, tools and snapshots.
struct EntryInfo {
  Outcome outcome = Outcome::kMiss;
  bool tombstone = false;
  bool high_priority = false;
  bool scored = false;  // its score came with a row, an update or feedback
  std::uint64_t version = 0;
  double expires = kNever;
  float score = std::numeric_limits<float>::quiet_NaN();  // S now; NaN where the policy keeps none
};

// Entries of one part of the cache, consistent with each other.
struct CachePart {
  std::vector<std::uint64_t> keys;
  std::vector<EntryInfo> infos;
  std::vector<float> rows;           // [keys, dim] widened, zeros for entries without a row
  std::vector<std::uint64_t> order;  // a larger one is evicted later, within the part
};

}  // namespace pepnet
