#include "cache/field_rules.h"

#include <stdexcept>
#include <string>

namespace pepnet::cache {

Fields::Fields(const CacheOptions& options, std::size_t capacity_rows) : admission_(options.admission) {
  certain_ = admission_ >= 1.0;
  size_ = options.fields.size();
  if (size_ == 0) return;
  fields_ = std::make_unique<Field[]>(size_);
  for (std::size_t i = 0; i < size_; ++i) {
    const FieldRule& rule = options.fields[i];
    const std::string name = "fields[" + std::to_string(i) + "]";
    for (std::size_t earlier = 0; earlier < i; ++earlier) {
      if (options.fields[earlier].table != rule.table) continue;
      throw std::invalid_argument(name + ": expected one rule a table, got two for " +
                                  std::to_string(rule.table));
    }
    if (!(rule.ttl > 0.0)) {
      throw std::invalid_argument(name + ": ttl: expected more than 0 s, got " + std::to_string(rule.ttl));
    }
    if (!(rule.share > 0.0 && rule.share <= 1.0)) {
      throw std::invalid_argument(name + ": share: expected above 0 and at most 1, got " +
                                  std::to_string(rule.share));
    }
    if (!(rule.admission <= 1.0)) {
      throw std::invalid_argument(name + ": admission: expected at most 1, got " +
                                  std::to_string(rule.admission));
    }
    fields_[i].rule = rule;
    if (rule.share < 1.0) {
      fields_[i].limit = static_cast<std::int64_t>(rule.share * static_cast<double>(capacity_rows));
      any_limit_ = true;
    }
    if (admission(&fields_[i]) < 1.0) certain_ = false;
  }
}

}  // namespace pepnet::cache
