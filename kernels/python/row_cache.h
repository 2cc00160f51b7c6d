// What bindings of caches share: the names of policies, and the cache behind a Python RowCache.
#pragma once

#include "bindings.h"
#include "cache/row_cache.h"
#include "cpu/named.h"

namespace pepnet::python {

inline constexpr Named<CachePolicy> kPolicies[] = {{"lru", CachePolicy::kLru},
                                                   {"gset", CachePolicy::kGset},
                                                   {"lfu", CachePolicy::kLfu},
                                                   {"sieve", CachePolicy::kSieve},
                                                   {"s3fifo", CachePolicy::kS3Fifo}};

// Throws py::cast_error for another type. The object must be kept alive.
struct CoreOf {
  RowCache* cache;
  std::size_t dim;
};
CoreOf core_and_dim_of(const py::handle& row_cache);

}  // namespace pepnet::python
