#include "cuda/device_rows.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "cuda/packing.h"

namespace pepnet::cuda {
namespace {

constexpr std::size_t kMostEntries = std::size_t{1} << 31;  // numbers of entries are ints to the kernels

using SteadyClock = std::chrono::steady_clock;  // which nobody sets
template <class Clock>
double seconds() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

}  // namespace

DeviceRows::DeviceRows(int device, const std::vector<Width>& widths, bool by_score)
    : device_(device), by_score_(by_score), begin_(seconds<SteadyClock>()) {
  for (const Width& one : widths) {
    const std::size_t sets = one.entries / kWays;
    if (one.width <= 0 || sets == 0 || sets * kWays >= kMostEntries)
      throw std::invalid_argument("rows: expected a width above 0 and 8 to 2^31 entries, got " +
                                  std::to_string(one.width) + " and " + std::to_string(one.entries));
    const std::size_t entries = sets * kWays;
    Owned owned;
    owned.keys = Allocation(entries * sizeof(std::uint64_t), Memory::device);
    owned.entries = Allocation(entries * sizeof(Entry), Memory::device);
    owned.rows = Allocation(entries * static_cast<std::size_t>(one.width) * sizeof(float), Memory::device);
    owned.table = {reinterpret_cast<std::uint64_t*>(owned.keys.data()),
                   reinterpret_cast<Entry*>(owned.entries.data()),
                   reinterpret_cast<float*>(owned.rows.data()), static_cast<std::uint32_t>(sets), one.width};
    tables_.push_back(std::move(owned));
  }
  clear();
}

const RowTable& DeviceRows::table(int width) const {
  for (const Owned& owned : tables_)
    if (owned.table.width == width) return owned.table;
  throw std::invalid_argument("rows: expected one of the widths there are, got " + std::to_string(width));
}

std::uint32_t DeviceRows::now() const {
  return static_cast<std::uint32_t>(std::max(0.0, seconds<SteadyClock>() - begin_));
}

void DeviceRows::read(Stream& stream, Event done, const Launch& launch) {
  const std::lock_guard guard(order_);
  stream.wait_for(written_);
  stream.enqueue(launch);
  done.record(stream);
  if (std::find(reads_.begin(), reads_.end(), done) == reads_.end()) reads_.push_back(done);
}

// With `order_` held.
void DeviceRows::write(const Launch& launch, std::size_t bytes) {
  stream_.copy(staged_.device.data(), staged_.pinned.data(), bytes);
  for (const Event& read : reads_) stream_.wait_for(read);
  reads_.clear();
  stream_.enqueue(launch);
  written_.record(stream_);
}

bool DeviceRows::insert(const NewRows& rows, std::uint64_t generation) {
  const std::size_t count = rows.keys.size(), width = static_cast<std::size_t>(rows.width);
  const RowTable& table = this->table(rows.width);
  if (count == 0) return true;
  const OnDevice here(device_);
  const std::lock_guard guard(writing_);
  std::vector<std::uint32_t> set(count), order(count);
  for (std::size_t i = 0; i < count; ++i) set[i] = set_of(rows.keys[i], table.sets);
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return set[a] < set[b]; });

  const std::size_t keys_at = 0, entries_at = up(count * sizeof(std::uint64_t), kAlign),
                    begins_at = entries_at + up(count * sizeof(Entry), kAlign),
                    rows_at = begins_at + up((count + 1) * sizeof(std::uint32_t), kAlign),
                    bytes = rows_at + count * width * sizeof(float);
  stream_.wait();  // the last write has left what is staged
  std::byte* const to = staged_.room(bytes);
  auto* const keys = reinterpret_cast<std::uint64_t*>(to + keys_at);
  auto* const entries = reinterpret_cast<Entry*>(to + entries_at);
  auto* const begins = reinterpret_cast<std::uint32_t*>(to + begins_at);
  auto* const values = reinterpret_cast<float*>(to + rows_at);
  int groups = 0;
  const double from_unix =
      seconds<SteadyClock>() - begin_ - seconds<std::chrono::system_clock>();  // the time left is taken now
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t from = order[i];
    if (i == 0 || set[from] != set[order[i - 1]]) begins[groups++] = static_cast<std::uint32_t>(i);
    keys[i] = rows.keys[from];
    const double expires = rows.expires[from] + from_unix;
    const float score = rows.scores[from];
    entries[i] = {0,
                  expires >= static_cast<double>(kNeverExpires)
                      ? kNeverExpires
                      : static_cast<std::uint32_t>(std::max(0.0, expires)),
                  std::isnan(score) ? 0.0F : score, rows.found[from] ? EntryState::row : EntryState::absent,
                  static_cast<std::uint16_t>(rows.high[from])};
    if (rows.found[from]) std::copy_n(rows.rows + from * width, width, values + i * width);
  }
  begins[groups] = static_cast<std::uint32_t>(count);

  const std::lock_guard ordered(order_);
  if (generation != generation_.load()) {
    outdated_ += count;
    return false;
  }
  const std::byte* const from = staged_.device.data();
  write(Insert{table, reinterpret_cast<const std::uint64_t*>(from + keys_at),
               reinterpret_cast<const Entry*>(from + entries_at),
               reinterpret_cast<const float*>(from + rows_at),
               reinterpret_cast<const std::uint32_t*>(from + begins_at), groups, tick(), now(), by_score_},
        bytes);
  inserted_ += count;
  return true;
}

void DeviceRows::drop(int width, std::span<const std::uint64_t> keys) {
  const RowTable& table = this->table(width);
  const OnDevice here(device_);
  const std::lock_guard guard(writing_);
  const std::size_t bytes = keys.size_bytes();
  stream_.wait();  // the last write has left what is staged
  std::byte* const to = staged_.room(bytes);
  if (bytes > 0) std::memcpy(to, keys.data(), bytes);
  const std::lock_guard ordered(order_);
  ++generation_;
  if (keys.empty()) return;
  write(Drop{table, reinterpret_cast<const std::uint64_t*>(staged_.device.data()),
             static_cast<int>(keys.size())},
        bytes);
  dropped_ += keys.size();
}

void DeviceRows::clear() {
  const OnDevice here(device_);
  const std::lock_guard guard(writing_);
  const std::lock_guard ordered(order_);
  ++generation_;
  for (const Event& read : reads_) stream_.wait_for(read);
  reads_.clear();
  for (const Owned& owned : tables_) {
    stream_.fill(owned.keys.data(), 0xFF, owned.keys.size());
    stream_.fill(owned.entries.data(), 0, owned.entries.size());
  }
  written_.record(stream_);
}

RowsStats DeviceRows::stats() const {
  RowsStats stats;
  for (const Owned& owned : tables_) {
    stats.entries += std::size_t{owned.table.sets} * kWays;
    stats.bytes += owned.keys.size() + owned.entries.size() + owned.rows.size();
  }
  stats.inserted = inserted_.load();
  stats.dropped = dropped_.load();
  stats.outdated = outdated_.load();
  return stats;
}

}  // namespace pepnet::cuda
