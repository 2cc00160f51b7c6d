#include "cache/flights.h"

#include <algorithm>
#include <bit>
#include <random>

#include "cpu/prefetch.h"
#include "rows/row_codec.h"

namespace pepnet::cache {
namespace {

// Drawn anew by every process, so that nobody can choose ids that all fall on one place.
std::uint64_t seed() noexcept {
  static const std::uint64_t drawn = (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  return drawn;
}

}  // namespace

FlightTable::FlightTable() : entries_(seed()) {}

FlightTable::Flight* FlightTable::flight_of(std::uint64_t number) noexcept {
  const auto found = std::ranges::find(flights_, number, &Flight::number);
  return found == flights_.end() ? nullptr : &*found;
}

void FlightTable::begin(PackedArray<std::uint64_t> keys, std::uint64_t flight, std::uint64_t* owners) {
  const std::lock_guard lock(mutex_);
  entries_.reserve(keys.size());
  flights_.reserve(flights_.size() + 1);
  std::size_t ours = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Entry entry = entries_.find(keys[i]);
    if (entry.flight == 0 || entry.touched) {
      // Whoever had it finds at `land` that it has it no more.
      if (Flight* const other = entry.touched ? flight_of(entry.flight) : nullptr) --other->keys;
      entry = {flight};
      entries_.put(keys[i], entry);
      ++ours;
    }
    owners[i] = entry.flight;
  }
  if (ours == 0) return;
  if (Flight* const known = flight_of(flight)) {
    known->keys += ours;
  } else {
    flights_.push_back({flight, ours});
  }
}

std::size_t FlightTable::land(PackedArray<std::uint64_t> keys, std::uint64_t flight, bool* kept) noexcept {
  const std::lock_guard lock(mutex_);
  Flight* const known = flight_of(flight);
  if (known != nullptr) known->landing = true;
  if (known != nullptr && !known->touched && known->keys == keys.size()) {
    std::fill_n(kept, keys.size(), true);
    return keys.size();
  }
  std::size_t count = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Entry& entry = entries_.find(keys[i]);
    kept[i] = entry.flight == flight && !entry.touched;
    count += kept[i];
  }
  return count;
}

void FlightTable::end(PackedArray<std::uint64_t> keys, std::uint64_t flight) noexcept {
  {
    const std::lock_guard lock(mutex_);
    Flight* const known = flight_of(flight);
    if (known != nullptr && known->keys == entries_.size() && known->keys == keys.size()) {
      entries_.clear();  // the only one, as almost always
      flights_.clear();
    } else {
      for (std::size_t i = 0; i < keys.size(); ++i) {
        if (entries_.find(keys[i]).flight != flight) continue;
        entries_.erase(keys[i]);
        if (known != nullptr) --known->keys;
      }
      if (known != nullptr && known->keys == 0) {
        *known = flights_.back();
        flights_.pop_back();
      }
    }
  }
  landed_.notify_all();
}

void FlightTable::touch(PackedArray<std::uint64_t> keys) {
  std::unique_lock lock(mutex_);
  for (bool waits = entries_.size() != 0; waits;) {
    waits = false;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      Entry& entry = entries_.find(keys[i]);
      if (entry.flight == 0 || entry.touched) continue;
      Flight* const flight = flight_of(entry.flight);
      if (flight->landing) {
        waits = true;
      } else {
        entry.touched = flight->touched = true;
      }
    }
    if (waits) landed_.wait(lock);
  }
}

std::size_t FlightTable::size() const noexcept {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

Misses lacking(PackedArray<std::uint64_t> keys, PackedArray<std::uint8_t> outcomes) {
  Misses found;
  bool absent = false;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto outcome = static_cast<Outcome>(outcomes[i]);
    if (outcome == Outcome::kRow) continue;
    if (outcome == Outcome::kMiss) {
      found.asked.push_back(static_cast<std::int64_t>(found.positions.size()));
      found.keys.push_back(keys[i]);
    } else {
      absent = true;
    }
    found.positions.push_back(static_cast<std::int64_t>(i));
  }
  if (!absent) found.asked.clear();
  return found;
}

std::vector<std::uint64_t> distinct(PackedArray<std::uint64_t> keys, std::int64_t* which) {
  std::vector<std::uint64_t> found;
  found.reserve(keys.size());
  // Open addressing without the keys, which are in `found`: 4 bytes a place, and one search for a new key.
  std::vector<std::uint32_t> places(std::bit_ceil(2 * keys.size() + 2));  // in `found`, from 1 on
  const std::size_t mask = places.size() - 1;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t key = keys[i];
    std::size_t at = mix(key ^ seed()) & mask;
    while (places[at] != 0 && found[places[at] - 1] != key) at = (at + 1) & mask;
    if (places[at] == 0) {
      found.push_back(key);
      places[at] = static_cast<std::uint32_t>(found.size());
    }
    which[i] = static_cast<std::int64_t>(places[at]) - 1;
  }
  return found;
}

std::size_t serve(const RowsView& rows, PackedArray<std::int64_t> sources,
                  PackedArray<std::int64_t> positions, PackedArray<float> default_row, OutView out) noexcept {
  const std::size_t dim = default_row.size();
  std::size_t defaults = 0;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (i + kLookAhead < positions.size()) {
      const auto next = static_cast<std::size_t>(sources[i + kLookAhead]);
      if (next < rows.count) prefetch_range(rows.row(next), rows.row_bytes());
    }
    const auto at = static_cast<std::size_t>(positions[i]);
    if (at >= out.count) continue;
    const auto source = static_cast<std::size_t>(sources[i]);
    if (source < rows.count) {
      load_row<RowType::kFloat32>(rows.row(source), out.row(at), dim);
    } else {
      for (std::size_t d = 0; d < dim; ++d) out.row(at)[d] = default_row[d];
      ++defaults;
    }
  }
  return defaults;
}

}  // namespace pepnet::cache
