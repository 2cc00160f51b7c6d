// The row cache on the device: a table for each width, and the order in which streams read and write it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "cuda/row_table.h"
#include "cuda/runtime.h"

namespace pepnet::cuda {

// Rows as they come from the host, keys distinct.
struct NewRows {
  int width = 0;
  std::span<const std::uint64_t> keys;
  const float* rows = nullptr;      // [keys, width]; of keys without a row not read
  const bool* found = nullptr;      // [keys] else known to have no row
  const bool* high = nullptr;       // [keys] never makes room for others
  const float* scores = nullptr;    // [keys] NaN: none
  const double* expires = nullptr;  // [keys] Unix seconds
};

struct RowsStats {
  std::uint64_t entries = 0;  // room for so many
  std::uint64_t bytes = 0;
  std::uint64_t inserted = 0, dropped = 0;  // keys
  std::uint64_t outdated = 0;               // keys that came too late
};

// Tables on a device: the interface of the library. Any number of threads may call.
class Rows {
 public:
  struct Width {
    int width;
    std::size_t entries;
  };
  virtual ~Rows() = default;
  // Inserts rows if `generation` is still the current one. Returns whether it was.
  virtual bool insert(const NewRows& rows, std::uint64_t generation) = 0;
  // Removes keys. Later reads report them as lacking.
  virtual void drop(int width, std::span<const std::uint64_t> keys) = 0;
  virtual void clear() = 0;
  virtual RowsStats stats() const = 0;
  // Incremented whenever keys are dropped: rows that were requested under an older generation may be stale.
  virtual std::uint64_t generation() const = 0;
};

// Calls read in streams of their own; a write waits for all reads that were put in before it, and reads after
// it wait for it.
class DeviceRows final : public Rows {
 public:
  // On the device that is the thread's (`OnDevice`), its number `device`. Throws std::invalid_argument,
  // CudaError.
  DeviceRows(int device, const std::vector<Width>& widths, bool by_score);

  bool insert(const NewRows& rows, std::uint64_t generation) override;
  void drop(int width, std::span<const std::uint64_t> keys) override;
  void clear() override;
  RowsStats stats() const override;
  std::uint64_t generation() const override { return generation_.load(); }

  // The table of a width. Throws std::invalid_argument when there is none.
  const RowTable& table(int width) const;
  int device() const { return device_; }
  std::uint32_t tick() { return ++clock_; }
  std::uint32_t now() const;

  // Puts `launch`, which reads tables, into `stream`. `done` belongs to whoever waits for the stream.
  void read(Stream& stream, Event done, const Launch& launch);

 private:
  struct Owned {
    RowTable table{};
    Allocation keys, entries, rows;
  };

  void write(const Launch& launch, std::size_t bytes);

  int device_;
  bool by_score_;
  double begin_;  // steady seconds of the cache's time 0
  std::vector<Owned> tables_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<std::uint32_t> clock_{0};

  std::mutex writing_;  // one write at a time prepares in these
  Stream stream_;
  Staging staged_;

  std::mutex order_;
  Event written_;
  std::vector<Event> reads_;  // since the last write
  std::atomic<std::uint64_t> inserted_{0}, dropped_{0}, outdated_{0};
};

}  // namespace pepnet::cuda
