// The hot-row cache between an engine and its store: the rows of the most valuable ids in a fixed number of
// bytes. This header is the contract; the layout in memory is in set_layout.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "rows/packed.h"
#include "rows/pool_bags.h"
#include "rows/rows.h"

namespace pepnet {

enum class CachePolicy : std::uint8_t { kLru, kGset, kLfu, kSieve, kS3Fifo };

// How a row is kept. kInt8 has one float32 scale a row: value = scale · code, scale = max|row| / 127.
enum class CacheRow : std::uint8_t { kFloat32, kFloat16, kBfloat16, kInt8 };

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
  CacheRow type = CacheRow::kFloat32;
  std::size_t capacity_bytes = 0;
  CachePolicy policy = CachePolicy::kLru;
  std::size_t max_rows = 0;  // a bound on rows below what the bytes allow; 0: none. For studies
  // Of GSET's score (gset.h); an access counts as a negative sample for a row without a score of its own, in
  // gset, and for every row in lfu.
  double beta = 0.1;
  double r = 3.0;
  double interval = 86400.0;  // seconds
  double admission = 1.0;     // probability that an unseen id is admitted by insert, fill and update
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
  const bool* earned =
      nullptr;  // [N] kRestore: the score is of accesses, which go on counting; null: none is
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
  kRejected =
      3,  // not admitted: by probability, by its field's share, or only high-priority rows stand in the way
};

// What became of entries: in numbers of any kind.
template <class Number>
struct EntryCounts {
  Number inserted{}, replaced{}, stale{}, rejected_admission{}, rejected_share{}, rejected_priority{};
  Number updates_applied{}, updates_stale{};  // of updates and erase
  Number evicted_expired{}, evicted_policy{}, evicted_share{}, erased{};
  Number rows{}, negatives{}, tombstones{};  // there now
};
template <class Number>
constexpr std::array kEntryCounters{&EntryCounts<Number>::inserted,
                                    &EntryCounts<Number>::replaced,
                                    &EntryCounts<Number>::stale,
                                    &EntryCounts<Number>::rejected_admission,
                                    &EntryCounts<Number>::rejected_share,
                                    &EntryCounts<Number>::rejected_priority,
                                    &EntryCounts<Number>::updates_applied,
                                    &EntryCounts<Number>::updates_stale,
                                    &EntryCounts<Number>::evicted_expired,
                                    &EntryCounts<Number>::evicted_policy,
                                    &EntryCounts<Number>::evicted_share,
                                    &EntryCounts<Number>::erased,
                                    &EntryCounts<Number>::rows,
                                    &EntryCounts<Number>::negatives,
                                    &EntryCounts<Number>::tombstones};
constexpr std::array kEntryCounterNames{
    "inserted",          "replaced",        "stale",         "rejected_admission", "rejected_share",
    "rejected_priority", "updates_applied", "updates_stale", "evicted_expired",    "evicted_policy",
    "evicted_share",     "erased",          "rows",          "negatives",          "tombstones"};

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

// Every method but set_time may be called from any number of threads at once. Lookups take no lock, wait for
// nobody and allocate nothing.
class RowCache {
 public:
  // Throws std::invalid_argument naming the option and what was expected; std::bad_alloc.
  static std::unique_ptr<RowCache> make(const CacheOptions& options);
  virtual ~RowCache() = default;

  // Writes the row of each key that has one to `out` [N rows]; other rows of `out` are left as they are.
  // outcomes[i] says what came; null: not wanted. `counted`: whether statistics and the policy see it.
  // Returns how many rows were written.
  virtual std::size_t lookup(PackedArray<std::uint64_t> keys, OutView out, Outcome* outcomes,
                             bool counted) noexcept = 0;

  // out[b] = mean or sum of the rows of bag b, as pepnet::pool does it. A bag with a key that has no row is
  // left undefined. Returns how many rows were found: all of them, or look at `outcomes` [keys].
  virtual std::size_t lookup_pool(PackedArray<std::uint64_t> keys, PackedArray<std::int64_t> offsets,
                                  Pooling pooling, OutView out, Outcome* outcomes, bool counted) noexcept = 0;

  // Writes rows; later ones of the batch see earlier ones. results [N] or null. Returns how many were
  // inserted or replaced.
  virtual std::size_t write(const RowBatch& batch, Write how, WriteResult* results) noexcept = 0;

  // Remembers that the store has no such id, for negative_ttl. Never replaces an entry.
  virtual void mark_absent(PackedArray<std::uint64_t> keys) noexcept = 0;

  // Deletes what is not newer than versions[i], and leaves a tombstone of that version until expires[i]
  // (null: now + tombstone_ttl). Returns how many applied.
  virtual std::size_t erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                            const double* expires) noexcept = 0;

  // Lets go of what is known of the keys, as if it had never come: the store is asked next. Returns how many
  // were there.
  virtual std::size_t forget(PackedArray<std::uint64_t> keys) noexcept = 0;

  // Counts samples that contained the ids, positive where positive[i]: adds β·r or β to the score of those
  // that are resident. Returns how many were. No effect on order in lru, sieve and s3fifo.
  virtual std::size_t feedback(PackedArray<std::uint64_t> keys, const bool* positive) noexcept = 0;

  // Looks, counting and touching nothing.
  virtual void peek(PackedArray<std::uint64_t> keys, EntryInfo* infos) const noexcept = 0;

  // Key by key: a lookup, and where it misses an insert of a row of zeros. hits [N] or null. Returns how many
  // hit. What a simulator does with a trace.
  virtual std::size_t replay(PackedArray<std::uint64_t> keys, bool* hits) noexcept = 0;

  virtual std::size_t parts() const noexcept = 0;
  // Copies a part without stopping readers; writers of that part wait. Throws std::bad_alloc.
  virtual CachePart part(std::size_t index) const = 0;

  virtual void clear() noexcept = 0;

  // The highest version that was evicted: of keys that are not here, only newer updates are taken.
  virtual std::uint64_t floor() const noexcept = 0;
  virtual void raise_floor(std::uint64_t version) noexcept = 0;

  // Unix seconds from here on, instead of the clock's; NaN: the clock's again. For tests and simulations.
  virtual void set_time(double now) noexcept = 0;
  // As if the wall clock had been set, by so many seconds in all. For tests.
  virtual void step_wall_clock(double seconds) noexcept = 0;
  // Unix seconds, as they would be had nobody set the wall clock since the cache was made: what intervals and
  // durations are counted on.
  virtual double time() const noexcept = 0;
  virtual double unix_time() const noexcept = 0;

  virtual CacheStats stats() const noexcept = 0;
  virtual std::size_t capacity_rows() const noexcept = 0;
  virtual std::size_t memory_bytes() const noexcept = 0;  // never more than capacity_bytes
};

}  // namespace pepnet
