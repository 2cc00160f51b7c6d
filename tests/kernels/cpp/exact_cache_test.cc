#include "studies/exact_cache.h"

#include <cmath>
#include <random>
#include <vector>

#include "check.h"

namespace pepnet::test {

// Anything, in any order: a key has the number that was written last, no more keys than rows are held, and
// nothing is read or written outside (the sanitizers').
void exact_cache() {
  for (const CachePolicy policy : {CachePolicy::kLru, CachePolicy::kGset, CachePolicy::kLfu,
                                   CachePolicy::kSieve, CachePolicy::kS3Fifo}) {
    for (const std::size_t rows : {1UL, 3UL, 100UL}) {
      studies::ExactCache cache(rows, policy, 0.1, 3.0, 5.0);
      std::mt19937_64 random(rows);
      std::vector<float> last(300), values(16), scores(16);
      std::vector<std::uint64_t> keys(16);
      bool flags[16];
      std::size_t wrong = 0, hits = 0;
      for (int step = 0; step < 5'000; ++step) {
        cache.set_time(step / 10.0);
        for (std::size_t i = 0; i < keys.size(); ++i) {
          keys[i] = random() % last.size();
          values[i] = static_cast<float>(random() % 1000);
          scores[i] = random() % 2 == 0 ? static_cast<float>(random() % 9) : std::nanf("");
          flags[i] = random() % 2 == 0;
        }
        const PackedArray<std::uint64_t> view(keys.data(), keys.size());
        switch (random() % 4) {
          case 0:
            cache.write(view, values.data(), random() % 2 == 0 ? nullptr : scores.data());
            for (std::size_t i = 0; i < keys.size(); ++i) last[keys[i]] = values[i];
            break;
          case 1:
            wrong += cache.feedback(view, flags) > keys.size();
            break;
          default:
            hits += cache.lookup(view, {values.data(), keys.size(), 1}, flags);
            for (std::size_t i = 0; i < keys.size(); ++i) wrong += flags[i] && values[i] != last[keys[i]];
        }
        wrong += cache.size() > rows;
      }
      CHECK(wrong == 0);
      CHECK(hits > 0 && cache.size() == rows);
      std::vector<double> now(keys.size());
      cache.scores({keys.data(), keys.size()}, now.data());
      std::vector<std::uint64_t> trace(2'000);
      for (std::uint64_t& key : trace) key = random() % 150;
      const PackedArray<std::uint64_t> view(trace.data(), trace.size());
      studies::ExactCache fresh(rows, policy, 0.1, 3.0, 5.0);
      CHECK(fresh.replay(view, nullptr) <= studies::belady(view, rows, nullptr));
    }
  }
}

}  // namespace pepnet::test
