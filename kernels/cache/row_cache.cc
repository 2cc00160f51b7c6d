#include "cache/row_cache.h"

#include <stdexcept>
#include <string>

#include "cache/set_cache.h"

namespace pepnet {
namespace {

void expect(bool holds, const char* name, const char* expected, double got) {
  if (holds) return;
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + std::to_string(got));
}

void check(const CacheOptions& options) {
  expect(options.dim >= 1 && options.dim <= 65536, "dim", "1 to 65536", static_cast<double>(options.dim));
  expect(options.admission >= 0.0 && options.admission <= 1.0, "admission", "0 to 1", options.admission);
  expect(options.tombstone_ttl > 0.0, "tombstone_ttl", "seconds above 0", options.tombstone_ttl);
  expect(options.negative_ttl > 0.0, "negative_ttl", "seconds above 0", options.negative_ttl);
}

}  // namespace

std::unique_ptr<RowCache> RowCache::make(const CacheOptions& options) {
  check(options);
  return std::make_unique<cache::SetCache>(options);
}

}  // namespace pepnet
