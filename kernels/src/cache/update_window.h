// Updates on their way into a cache, limited per id: an item that is trained on a thousand times a minute
// need not be written a thousand times a minute.
//
//     kLimit        the first `limit` updates of an id in an interval are applied at once. Later ones are
//     held, the
//                   newest version of each id only, and applied when the interval ends, where they count as
//                   the next interval's first. Intervals are those of the clock: floor(now / interval).
//     kAfterExpiry  an update is applied only to an id whose row has expired or is not there, else it is
//     dropped.
//                   Deletions always apply.
//
// Versions decide in the cache what is newer, so that holding back changes when an update is seen and never
// what is there in the end. Memory is fixed: `max_pending` rows, and four times as many ids of which the
// number of updates in this interval is known. When rows run out, the one held longest is applied early; when
// ids run out, further ids are applied at once and not limited. Both are counted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "cache/after_fork.h"
#include "cache/region.h"
#include "pepnet/row_cache.h"

namespace pepnet::cache {

struct WindowOptions {
  double interval = 1.0;  // seconds
  std::uint32_t limit = 1;
  bool after_expiry = false;
  std::size_t max_pending = 1 << 16;
};

struct WindowStats {
  std::uint64_t applied = 0;    // written to the cache, or erased from it
  std::uint64_t stale = 0;      // refused as not newer, here or by the cache
  std::uint64_t rejected = 0;   // refused by the cache's admission
  std::uint64_t held = 0;       // held back, whatever became of them
  std::uint64_t coalesced = 0;  // met a held one of their id: of the two, the newer version is kept
  std::uint64_t early = 0;      // of those held: applied before the interval's end, to make room
  std::uint64_t untracked = 0;  // applied at once because no more ids could be counted
  std::uint64_t dropped = 0;    // with after_expiry: the row had not expired
  std::uint64_t pending = 0;    // held now
};

// Safe to call from many threads; those that update take turns, those that look up are not concerned.
class UpdateWindow final : private Forked {
 public:
  static constexpr std::size_t kMaxPending = std::size_t{1} << 28;

  // `cache` must outlive this, and its rows have `dim` numbers. Throws std::invalid_argument naming the
  // option; std::bad_alloc.
  UpdateWindow(RowCache& cache, std::size_t dim, const WindowOptions& options);

  // Returns how many of the batch were applied now.
  std::size_t apply(const RowBatch& batch) noexcept;
  std::size_t erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                    const double* expires) noexcept;

  // Applies what was held in an interval other than that of `now`; NaN: whatever is held. Returns how many
  // applied.
  std::size_t flush(double now) noexcept;

  WindowStats stats() const noexcept;
  std::size_t dim() const noexcept { return dim_; }

 private:
  static constexpr std::size_t kChunk = 512;  // rows in one turn of the lock

  struct Tracked {
    std::uint64_t key;
    std::uint64_t version;  // the newest that is known to have been applied, if `known`
    std::uint32_t count;    // in this interval
    std::uint32_t held;     // 1 + place in pending_; 0: none
    bool known;
  };
  // What was said of an id: a row that stands beside it, or a deletion.
  struct Held {
    std::uint64_t key, version;
    double expires;  // NaN: none given
    float score;
    bool erase;
  };
  struct Operation {
    Held what;
    const float* row;
  };
  enum class Decision : std::uint8_t { kNow, kNotNow };

  std::size_t home_of(std::uint64_t key) const noexcept;
  void after_fork() noexcept override;
  Tracked* track(std::uint64_t key) noexcept;
  Decision decide(const Operation& operation, Tracked*& tracked) noexcept;
  void keep(std::size_t place, const Operation& operation) noexcept;
  void make_room() noexcept;
  void roll(double now) noexcept;
  std::size_t flush_held() noexcept;
  template <class Read>
  std::size_t limited(std::size_t begin, std::size_t end, Read&& read) noexcept;
  template <class Read>
  std::size_t after_expiry(std::size_t begin, std::size_t end, Read&& read) noexcept;
  template <class Read>
  std::size_t each_chunk(std::size_t size, Read&& read) noexcept;
  void gather(const Operation& operation, Tracked* tracked) noexcept;
  std::size_t send(bool erase) noexcept;
  std::size_t send_updates() noexcept;
  std::size_t send_erases() noexcept;
  std::size_t next(std::size_t place) const noexcept { return place + 1 == pending_.size() ? 0 : place + 1; }
  float* row(std::size_t place) noexcept { return rows_.data() + place * dim_; }

  RowCache& cache_;
  const std::size_t dim_;
  const WindowOptions options_;
  const std::uint64_t seed_;

  std::mutex lock_;
  // Everything below is the lock holder's.
  double interval_;  // which one; NaN: none yet
  std::size_t most_tracked_;
  std::vector<Tracked> tracked_;
  std::vector<std::uint32_t>
      places_;                 // hash table of 1 + place in tracked_; a power of two, at most half full
  std::vector<Held> pending_;  // a ring in the order in which they were held
  std::vector<float> rows_;    // [max_pending, dim]
  std::size_t first_ = 0, size_ = 0;

  // What goes to the cache in one call.
  std::size_t gathered_ = 0;
  std::vector<std::uint64_t> keys_, versions_;
  std::vector<double> expires_;
  std::vector<float> scores_, gathered_rows_;
  std::vector<Tracked*> owners_;  // nullptr: its updates are not counted
  std::vector<Written> results_;
  std::vector<EntryInfo> infos_;
  std::vector<std::size_t> homes_;

  Count applied_, stale_, rejected_, held_, coalesced_, early_, untracked_, dropped_;
  std::atomic<std::uint64_t> pending_now_{0};
};

}  // namespace pepnet::cache
