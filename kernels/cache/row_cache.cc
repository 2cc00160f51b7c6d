// Which cache is made, and what is asked of the options of each.
#include "cache/row_cache.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "cache/set_cache.h"
#include "studies/full_cache.h"

namespace pepnet {
namespace {

void expect(bool holds, const char* name, const char* expected, double got) {
  if (holds) return;
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + std::to_string(got));
}

void check(const CacheOptions& options) {
  expect(options.dim >= 1 && options.dim <= 65536, "dim", "1 to 65536", static_cast<double>(options.dim));
  expect(options.beta > 0.0 && options.beta < 1.0, "beta", "between 0 and 1", options.beta);
  expect(options.r > 0.0 && std::isfinite(options.r), "r", "a number above 0", options.r);
  expect(options.interval > 0.0 && std::isfinite(options.interval), "interval", "seconds above 0",
         options.interval);
  expect(options.admission >= 0.0 && options.admission <= 1.0, "admission", "0 to 1", options.admission);
  expect(options.tombstone_ttl > 0.0, "tombstone_ttl", "seconds above 0", options.tombstone_ttl);
  expect(options.negative_ttl > 0.0, "negative_ttl", "seconds above 0", options.negative_ttl);
}

}  // namespace

std::unique_ptr<RowCache> RowCache::make(const CacheOptions& options) {
  check(options);
  if (options.full) return make_full_cache(options);
  return std::make_unique<cache::SetCache>(options);
}

}  // namespace pepnet
