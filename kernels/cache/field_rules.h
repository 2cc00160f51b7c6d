// The rules of fields (ttl, share, admission, priority), and how many rows each field has.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "cache/cache_types.h"

namespace pepnet::cache {

inline std::uint16_t table_of(std::uint64_t key) noexcept { return static_cast<std::uint16_t>(key >> 48); }

class Fields {
 public:
  struct Field {
    FieldRule rule;
    std::int64_t limit = -1;  // rows it may hold; below 0: no limit
    mutable std::atomic<std::int64_t> rows{0};
  };

  Fields(const CacheOptions& options, std::size_t capacity_rows)
      : admission_(options.admission), fields_(options.fields.size()) {
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      const FieldRule& rule = options.fields[i];
      fields_[i].rule = rule;
      any_limit_ |= rule.share < 1.0;
      if (rule.share < 1.0)
        fields_[i].limit = static_cast<std::int64_t>(rule.share * static_cast<double>(capacity_rows));
    }
  }

  bool any_limit() const noexcept { return any_limit_; }
  // nullptr: no rule.
  const Field* of(std::uint64_t key) const noexcept {
    for (const Field& field : fields_) {
      if (field.rule.table == table_of(key)) return &field;
    }
    return nullptr;
  }
  double admission(std::uint64_t key) const noexcept {
    const Field* const field = of(key);
    return field != nullptr && field->rule.admission >= 0.0 ? field->rule.admission : admission_;
  }
  // A row of `key` comes (1) or goes (-1).
  void count(std::uint64_t key, int change) const noexcept {
    if (!any_limit_) return;
    if (const Field* const field = of(key)) field->rows.fetch_add(change, std::memory_order_relaxed);
  }
  void reset_rows() noexcept {
    for (Field& field : fields_) field.rows.store(0, std::memory_order_relaxed);
  }

 private:
  bool any_limit_ = false;
  double admission_;
  std::vector<Field> fields_;
};

}  // namespace pepnet::cache
