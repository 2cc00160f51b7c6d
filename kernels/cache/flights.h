// In-flight fetches: which ids are being fetched from the store and by which flight, so that an id is fetched
// once however many threads miss it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "cache/row_cache.h"
#include "rows/key_table.h"
#include "rows/rows.h"

namespace pepnet::cache {

// An id is entered by `begin` and leaves with `end`. Between them an update or a deletion of it may come,
// which calls `touch` first:
//
//     flight   begin    ask the store    land    write rows to the cache    end
//     update                        touch    write to the cache
//
// What the store answered may then be older than the update, and the cache cannot be relied on to know: the
// updated row may have been evicted, or never admitted. So a touched id's row is not written, unless over an
// older one: the store may also have answered with a later version than the update's. `touch` comes either
// before `land`, which reports it, or after; then it waits for `end`, and the update is written over the
// flight's row. A touched id has no flight for those who come later: they ask the store anew, and never see
// the older row.
class FlightTable {
 public:
  FlightTable();

  // `keys` are distinct. owners[i] becomes the flight that fetches keys[i] from here on: the one that does
  // already, or `flight` (not 0).
  void begin(PackedArray<std::uint64_t> keys, std::uint64_t flight, std::uint64_t* owners);

  // Says that rows of `flight` are about to be written. keys: of those that it began with, distinct. kept[i]:
  // whether that of keys[i] may be. Returns how many.
  std::size_t land(PackedArray<std::uint64_t> keys, std::uint64_t flight, bool* kept) noexcept;

  // Lets go of those of `keys`, all that the flight began with, that it still has.
  void end(PackedArray<std::uint64_t> keys, std::uint64_t flight) noexcept;

  // An update or deletion of `keys` is about to be written. Waits while rows of theirs are being written.
  void touch(PackedArray<std::uint64_t> keys);

  std::size_t size() const noexcept;

 private:
  struct Entry {
    std::uint64_t flight = 0;  // 0: the key is in no flight
    bool touched = false;
    bool operator==(const Entry&) const = default;
  };
  struct Flight {
    std::uint64_t number;
    std::size_t keys;      // that it has in the table
    bool touched = false;  // some of its keys were, or are another's since
    bool landing = false;  // rows of its keys may be being written
  };

  Flight* flight_of(std::uint64_t number) noexcept;  // nullptr: it has no keys

  mutable std::mutex mutex_;
  std::condition_variable landed_;
  KeyTable<Entry> entries_;
  std::vector<Flight> flights_;  // few
};

// The misses of a lookup.
struct Misses {
  std::vector<std::int64_t> positions;  // of all keys without a row
  std::vector<std::int64_t> asked;      // which of `positions` are not known to be absent; empty: all of them
  std::vector<std::uint64_t> keys;      // theirs
};

// `outcomes` [keys] are of `Outcome`.
Misses lacking(PackedArray<std::uint64_t> keys, PackedArray<std::uint8_t> outcomes);

// Distinct keys in the order in which they first come, and for each of `keys` which of them it is [keys].
std::vector<std::uint64_t> distinct(PackedArray<std::uint64_t> keys, std::int64_t* which);

// out.row(positions[i]) = row sources[i] of `rows`, or `default_row` where that is outside. Positions outside
// of `out` are passed over. Returns how many got the default row.
std::size_t serve(const RowsView& rows, PackedArray<std::int64_t> sources,
                  PackedArray<std::int64_t> positions, PackedArray<float> default_row, OutView out) noexcept;

}  // namespace pepnet::cache
