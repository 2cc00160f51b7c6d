#include "studies/full_policy.h"

#include "studies/full_lru.h"
#include "studies/full_s3fifo.h"
#include "studies/full_scored.h"
#include "studies/full_sieve.h"

namespace pepnet::full {

std::size_t Policy::bytes(CachePolicy policy, std::size_t rows, const std::vector<std::size_t>& quotas) {
  switch (policy) {
    case CachePolicy::kLru:
      return Lru::bytes(quotas);
    case CachePolicy::kSieve:
      return sizeof(Sieve);
    case CachePolicy::kS3Fifo:
      return S3Fifo::bytes(rows);
    case CachePolicy::kGset:
    case CachePolicy::kLfu:
      break;
  }
  return Scored::bytes(quotas);
}

std::unique_ptr<Policy> Policy::make(CachePolicy policy, Entries& entries,
                                     const std::vector<std::size_t>& quotas, std::uint64_t seed) {
  switch (policy) {
    case CachePolicy::kLru:
      return std::make_unique<Lru>(entries, quotas.size());
    case CachePolicy::kSieve:
      return std::make_unique<Sieve>(entries);
    case CachePolicy::kS3Fifo:
      return std::make_unique<S3Fifo>(entries, seed);
    case CachePolicy::kGset:
    case CachePolicy::kLfu:
      break;
  }
  return std::make_unique<Scored>(entries, quotas);
}

}  // namespace pepnet::full
