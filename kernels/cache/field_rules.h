// The rules of fields (ttl, share, admission, priority), and how many rows each field has.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "cache/row_cache.h"

namespace pepnet::cache {

constexpr unsigned kTableShift = 48;

inline std::uint16_t table_of(std::uint64_t key) noexcept {
  return static_cast<std::uint16_t>(key >> kTableShift);
}

class Fields {
 public:
  struct Field {
    FieldRule rule;
    std::int64_t limit = -1;  // rows it may hold; below 0: no limit
    mutable std::atomic<std::int64_t> rows{0};
  };

  // Throws std::invalid_argument for a rule out of range or two for one table.
  Fields(const CacheOptions& options, std::size_t capacity_rows);

  bool any() const noexcept { return size_ != 0; }
  void reset_rows() noexcept {
    for (std::size_t i = 0; i < size_; ++i) fields_[i].rows.store(0, std::memory_order_relaxed);
  }
  bool any_limit() const noexcept { return any_limit_; }

  // nullptr: no rule.
  const Field* of(std::uint64_t key) const noexcept {
    if (size_ == 0) return nullptr;
    const std::uint16_t table = table_of(key);
    for (std::size_t i = 0; i < size_; ++i) {
      if (fields_[i].rule.table == table) return &fields_[i];
    }
    return nullptr;
  }
  double admission(const Field* field) const noexcept {
    return field != nullptr && field->rule.admission >= 0.0 ? field->rule.admission : admission_;
  }
  bool certain() const noexcept { return certain_; }  // whatever comes is admitted

 private:
  std::size_t size_ = 0;
  bool any_limit_ = false;
  bool certain_ = true;
  double admission_;
  std::unique_ptr<Field[]> fields_;
};

}  // namespace pepnet::cache
