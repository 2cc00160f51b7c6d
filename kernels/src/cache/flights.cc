#include "cache/flights.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>

#include "pepnet/key_index.h"
#include "pepnet/prefetch.h"

namespace pepnet::cache {
namespace {

constexpr std::size_t kSmallest = 64;

// Drawn anew by every process, so that nobody can choose ids that all fall on one place.
std::uint64_t seed() noexcept {
  static const std::uint64_t drawn = (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  return drawn;
}

std::size_t place(std::uint64_t key, std::size_t mask) noexcept {
  return static_cast<std::size_t>(mix(key ^ seed())) & mask;
}

}  // namespace

FlightTable::FlightTable() : entries_(kSmallest) {}

std::size_t FlightTable::find(std::uint64_t key) const noexcept {
  const std::size_t mask = entries_.size() - 1;
  std::size_t at = place(key, mask);
  while (entries_[at].flight != 0 && entries_[at].key != key) at = (at + 1) & mask;
  return at;
}

void FlightTable::reserve(std::size_t more) {
  const std::size_t wanted = std::bit_ceil(2 * (size_ + more));
  if (wanted <= entries_.size()) return;
  std::vector<Entry> before(wanted);
  before.swap(entries_);
  for (const Entry& entry : before) {
    if (entry.flight != 0) entries_[find(entry.key)] = entry;
  }
}

void FlightTable::remove(std::size_t at) noexcept {
  const std::size_t mask = entries_.size() - 1;
  // Entries behind the gap move into it, unless they would come before the place they are looked for from.
  for (std::size_t next = (at + 1) & mask; entries_[next].flight != 0; next = (next + 1) & mask) {
    const std::size_t home = place(entries_[next].key, mask);
    if (((next - home) & mask) >= ((next - at) & mask)) {
      entries_[at] = entries_[next];
      at = next;
    }
  }
  entries_[at] = Entry{};
  --size_;
}

void FlightTable::begin(PackedArray<std::uint64_t> keys, std::uint64_t flight, std::uint64_t* owners) {
  const std::lock_guard lock(mutex_);
  reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Entry& entry = entries_[find(keys[i])];
    if (entry.flight == 0) {
      ++size_;
      entry = {keys[i], flight, State::kFlying};
    } else if (entry.state == State::kTouched) {
      entry = {keys[i], flight, State::kFlying};  // whoever had it finds at `land` that it has it no more
    }
    owners[i] = entry.flight;
  }
}

std::size_t FlightTable::land(PackedArray<std::uint64_t> keys, std::uint64_t flight, bool* kept) noexcept {
  const std::lock_guard lock(mutex_);
  std::size_t count = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Entry& entry = entries_[find(keys[i])];
    kept[i] = entry.flight == flight && entry.state != State::kTouched;
    if (kept[i]) {
      entry.state = State::kLanding;
      ++count;
    }
  }
  return count;
}

void FlightTable::end(PackedArray<std::uint64_t> keys, std::uint64_t flight) noexcept {
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::size_t at = find(keys[i]);
      if (entries_[at].flight == flight) remove(at);
    }
  }
  landed_.notify_all();
}

void FlightTable::touch(PackedArray<std::uint64_t> keys) {
  std::unique_lock lock(mutex_);
  for (bool waits = size_ != 0; waits;) {
    waits = false;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      Entry& entry = entries_[find(keys[i])];
      if (entry.flight == 0) continue;
      if (entry.state == State::kLanding) {
        waits = true;
      } else {
        entry.state = State::kTouched;
      }
    }
    if (waits) landed_.wait(lock);
  }
}

std::size_t FlightTable::size() const noexcept {
  const std::lock_guard lock(mutex_);
  return size_;
}

std::vector<std::uint64_t> distinct(PackedArray<std::uint64_t> keys, std::int64_t* which) {
  std::vector<std::uint64_t> found;
  found.reserve(keys.size());
  std::vector<std::uint32_t> index(std::bit_ceil(2 * keys.size() + 2));  // place → position in `found` + 1
  const std::size_t mask = index.size() - 1;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t key = keys[i];
    std::size_t at = place(key, mask);
    while (index[at] != 0 && found[index[at] - 1] != key) at = (at + 1) & mask;
    if (index[at] == 0) {
      found.push_back(key);
      index[at] = static_cast<std::uint32_t>(found.size());
    }
    which[i] = static_cast<std::int64_t>(index[at]) - 1;
  }
  return found;
}

std::size_t serve(const RowsView& rows, PackedArray<std::int64_t> sources,
                  PackedArray<std::int64_t> positions, PackedArray<float> default_row, OutView out) noexcept {
  constexpr std::size_t kAhead = 12;
  const std::size_t bytes = default_row.size() * sizeof(float);
  std::size_t defaults = 0;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (i + kAhead < positions.size()) {
      const auto next = static_cast<std::size_t>(sources[i + kAhead]);
      if (next < rows.count) prefetch(rows.row(next));
    }
    const auto at = static_cast<std::size_t>(positions[i]);
    if (at >= out.count) continue;
    const auto source = static_cast<std::size_t>(sources[i]);
    if (source < rows.count) {
      std::memcpy(out.row(at), rows.row(source), bytes);
    } else {
      for (std::size_t d = 0; d < default_row.size(); ++d) out.row(at)[d] = default_row[d];
      ++defaults;
    }
  }
  return defaults;
}

}  // namespace pepnet::cache
