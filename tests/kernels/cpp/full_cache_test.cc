#include "studies/full_cache.h"

#include <cmath>
#include <iterator>
#include <random>
#include <thread>
#include <vector>

#include "cache/row_cache.h"
#include "check.h"

namespace pepnet::test {
namespace {

constexpr std::size_t kDim = 5;
constexpr CachePolicy kPolicies[] = {CachePolicy::kLru, CachePolicy::kGset, CachePolicy::kLfu,
                                     CachePolicy::kSieve, CachePolicy::kS3Fifo};
constexpr Write kWrites[] = {Write::kInsert, Write::kUpdate, Write::kUpdateKnown, Write::kPut,
                             Write::kPutKnown};

CacheOptions options_of(CachePolicy policy, CacheRow type, std::size_t bytes) {
  CacheOptions options;
  options.dim = kDim;
  options.type = type;
  options.capacity_bytes = bytes;
  options.policy = policy;
  options.full = true;
  options.interval = 5.0;
  options.fields = {{.table = 1, .high_priority = true, .ttl = 9.0},
                    {.table = 2, .share = 0.05, .admission = 0.5},
                    {.table = 3, .ttl = 20.0}};
  return options;
}

// Every number of a row says its key and version, small enough for every type of row.
float number_of(std::uint64_t key, std::uint64_t version) {
  return static_cast<float>((key % 8) * 8 + version % 8);
}

// Anything, in any order: rows are whole, counts add up, nothing is read or written outside (the
// sanitizers').
std::size_t anything_in_any_order(RowCache& cache, std::uint64_t seed, int steps, bool alone) {
  std::size_t wrong = 0;
  std::mt19937_64 random(seed);
  std::vector<float> rows(16 * kDim), out(16 * kDim);
  std::vector<std::uint64_t> keys(16), versions(16);
  std::vector<float> scores(16);
  std::vector<double> expires(16);
  bool positive[16];
  Outcome outcomes[16];
  for (int step = 0; step < steps; ++step) {
    const std::size_t count = 1 + random() % 16;
    for (std::size_t i = 0; i < count; ++i) {
      keys[i] = (random() % 4) << 48 | (random() % 300);
      versions[i] = random() % 1000;
      scores[i] = random() % 2 == 0 ? static_cast<float>(random() % 9) : std::nanf("");
      expires[i] = random() % 3 == 0 ? cache.time() + static_cast<double>(random() % 30) : kNever;
      positive[i] = random() % 2 == 0;
      for (std::size_t d = 0; d < kDim; ++d) rows[i * kDim + d] = number_of(keys[i], versions[i]);
    }
    const PackedArray<std::uint64_t> view(keys.data(), count);
    const OutView target{out.data(), count, kDim};
    switch (random() % 8) {
      case 0:
      case 1:
        (void)cache.write({view, rows.data(), kDim, scores.data(), versions.data(), expires.data()},
                          kWrites[random() % std::size(kWrites)], nullptr);
        break;
      case 2:
        (void)cache.erase(view, versions.data(), random() % 2 == 0 ? nullptr : expires.data());
        break;
      case 3:
        cache.mark_absent(view);
        break;
      case 4:
        (void)cache.feedback(view, positive);
        break;
      case 5: {
        const std::int64_t offsets[] = {0, static_cast<std::int64_t>(count / 2),
                                        static_cast<std::int64_t>(count)};
        (void)cache.lookup_pool(view, {offsets, 3}, Pooling::kMean, {out.data(), 2, kDim}, outcomes, true);
        break;
      }
      case 6:
        if (alone) cache.set_time(cache.time() + static_cast<double>(random() % 4));
        if (random() % 200 == 0) cache.clear();
        break;
      default: {
        const std::size_t found = cache.lookup(view, target, outcomes, random() % 2 == 0);
        std::size_t hits = 0;
        for (std::size_t i = 0; i < count; ++i) {
          if (outcomes[i] != Outcome::kRow) continue;
          ++hits;
          const float first = target.row(i)[0];
          wrong += std::fabs(first - std::round(first)) >= 0.3F;
          wrong += static_cast<std::uint64_t>(std::lround(first)) / 8 != keys[i] % 8;
          for (std::size_t d = 1; d < kDim; ++d) wrong += target.row(i)[d] != first;
        }
        wrong += found != hits;
      }
    }
  }
  return wrong;
}

void check_counts(const RowCache& cache) {
  const CacheStats stats = cache.stats();
  const CachePart part = cache.part(0);
  CHECK(stats.rows + stats.negatives + stats.tombstones == part.keys.size());
  CHECK(part.keys.size() <= cache.capacity_rows());
  CHECK(stats.evicted_policy > 0 && stats.evicted_share > 0 && stats.rejected_admission > 0);
}

}  // namespace

void full_cache() {
  for (const CachePolicy policy : kPolicies) {
    for (const CacheRow type :
         {CacheRow::kFloat32, CacheRow::kFloat16, CacheRow::kBfloat16, CacheRow::kInt8}) {
      const auto cache = make_full_cache(options_of(policy, type, 40'000));
      CHECK(cache->memory_bytes() <= 40'000 && cache->capacity_rows() > 20);
      cache->set_time(1'000.0);
      CHECK(anything_in_any_order(*cache, 7 + static_cast<std::uint64_t>(policy), 20'000, true) == 0);
      check_counts(*cache);
    }
    const auto shared = make_full_cache(options_of(policy, CacheRow::kFloat32, 40'000));
    std::vector<std::thread> threads;
    std::size_t wrong[3] = {};
    for (std::uint64_t t = 0; t < 3; ++t)
      threads.emplace_back(
          [&shared, &wrong, t] { wrong[t] = anything_in_any_order(*shared, t, 4'000, false); });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong[0] + wrong[1] + wrong[2] == 0);
    check_counts(*shared);
  }
}

}  // namespace pepnet::test
