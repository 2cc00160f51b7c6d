// An overlay in front of a cache, against one key after the other.
#include "cache/row_overlay.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "rows/lookup.h"

namespace pepnet::test {
namespace {

constexpr std::size_t kDim = 5;
constexpr double kNow = 1'000.0;
const float kDefault[kDim] = {0.5F, -1.0F, 3.0F, 7.25F, 0.0F};

struct Changed {
  std::vector<std::uint64_t> keys;
  std::vector<float> rows;
  std::vector<std::uint8_t> gone;
  std::vector<double> expires;

  RowOverlay overlay(bool with_gone, bool with_expires) const {
    return {{keys.data(), keys.size()},
            {reinterpret_cast<const std::byte*>(rows.data()), keys.size(), kDim, RowType::kFloat32},
            with_gone ? gone.data() : nullptr,
            with_expires ? expires.data() : nullptr};
  }
};

Changed draw(std::mt19937_64& random, std::size_t count) {
  Changed changed;
  for (std::size_t i = 0; i < count; ++i) {
    changed.keys.push_back(3 * i + random() % 3);
    for (std::size_t d = 0; d < kDim; ++d)
      changed.rows.push_back(static_cast<float>(random() % 1'000) / 7.0F);
    changed.gone.push_back(random() % 4 == 0);
    changed.expires.push_back(random() % 3 == 0 ? kNow + static_cast<double>(random() % 3) - 1.0 : kNever);
  }
  return changed;
}

// What the overlay is to answer, key by key.
struct Expected {
  std::vector<float> rows;
  std::vector<Outcome> outcomes;
  OverlayLookup answered;
};

Expected one_by_one(RowCache& cache, const Changed& changed, bool with_gone, bool with_expires,
                    const std::vector<std::uint64_t>& keys) {
  Expected expected;
  for (const std::uint64_t key : keys) {
    float row[kDim] = {};
    Outcome outcome = Outcome::kRow;
    const auto found = std::find(changed.keys.begin(), changed.keys.end(), key);
    if (found == changed.keys.end()) {
      expected.answered.hits += cache.lookup({&key, 1}, {row, 1, kDim}, &outcome, false);
    } else {
      const auto at = static_cast<std::size_t>(found - changed.keys.begin());
      const bool lost = (with_gone && changed.gone[at] != 0) || (with_expires && changed.expires[at] <= kNow);
      std::copy_n(lost ? kDefault : changed.rows.data() + at * kDim, kDim, row);
      ++expected.answered.ours;
      expected.answered.defaults += lost;
    }
    expected.outcomes.push_back(outcome);
    expected.rows.insert(expected.rows.end(), row, row + kDim);
  }
  return expected;
}

bool same(const OverlayLookup& one, const OverlayLookup& other) {
  return one.hits == other.hits && one.ours == other.ours && one.defaults == other.defaults;
}

// Half of the other keys are cached, a few are known not to exist, and the rest is unknown.
void fill(RowCache& cache, std::mt19937_64& random, std::size_t ids) {
  cache.set_time(kNow);
  for (std::uint64_t key = 0; key < ids; ++key) {
    float row[kDim];
    for (float& value : row) value = static_cast<float>(random() % 1'000) / 11.0F;
    if (random() % 2 == 0) (void)cache.write({{&key, 1}, row, kDim}, Write::kInsert, nullptr);
    if (random() % 9 == 0) cache.mark_absent({&key, 1});
  }
}

void looked_up(std::size_t changes, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  CacheOptions options;
  options.dim = kDim;
  options.capacity_bytes = std::size_t{1} << 20;
  const auto cache = std::make_unique<RowCache>(options);
  fill(*cache, random, 900);
  const Changed changed = draw(random, changes);
  const bool with_gone = seed % 2 == 0, with_expires = seed % 3 == 0;
  const RowOverlay overlay = changed.overlay(with_gone, with_expires);
  std::vector<std::uint64_t> keys(count);
  for (std::uint64_t& key : keys) key = random() % 900;
  const Expected expected = one_by_one(*cache, changed, with_gone, with_expires, keys);

  const std::ptrdiff_t stride = kDim + 3;
  std::vector<float> out(count * kDim + count * 3, -9.0F);
  std::vector<Outcome> outcomes(count);
  const CacheStats before = cache->stats();
  const OverlayLookup answered = overlay.lookup(*cache, {keys.data(), count}, {kDefault, kDim},
                                                {out.data(), count, stride}, outcomes.data(), true);
  CHECK(same(answered, expected.answered));
  CHECK(outcomes == expected.outcomes);
  for (std::size_t i = 0; i < count; ++i) {
    const float* const row = out.data() + static_cast<std::ptrdiff_t>(i) * stride;
    for (std::size_t d = 0; d < kDim; ++d)
      CHECK(row[d] == (outcomes[i] == Outcome::kRow ? expected.rows[i * kDim + d] : -9.0F));
    for (std::size_t d = kDim; d < kDim + 3; ++d) CHECK(row[d] == -9.0F);
  }
  const CacheStats after = cache->stats();
  CHECK(after.hits - before.hits == answered.hits);
  CHECK(after.hits + after.misses + after.negative_hits - before.hits - before.misses -
            before.negative_hits ==
        count - answered.ours);
  (void)overlay.lookup(*cache, {keys.data(), count}, {kDefault, kDim}, {out.data(), count, stride},
                       outcomes.data(), false);
  const CacheStats last = cache->stats();
  CHECK(last.hits == after.hits && last.misses == after.misses && last.negative_hits == after.negative_hits);
}

// Bags, from the second key to the last but one, of which those with all rows are as pepnet::pool makes them.
void pooled(std::size_t changes, std::size_t count, bool all_there, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  CacheOptions options;
  options.dim = kDim;
  options.capacity_bytes = std::size_t{1} << 20;
  const auto cache = std::make_unique<RowCache>(options);
  fill(*cache, random, 900);
  const Changed changed = draw(random, changes);
  const RowOverlay overlay = changed.overlay(true, true);
  std::vector<std::uint64_t> keys(count + 2);
  for (std::uint64_t& key : keys) {
    Outcome outcome;
    float row[kDim];
    do {
      key = random() % 900;
      (void)cache->lookup({&key, 1}, {row, 1, kDim}, &outcome, false);
    } while (all_there && outcome != Outcome::kRow &&
             std::find(changed.keys.begin(), changed.keys.end(), key) == changed.keys.end());
  }
  std::vector<std::int64_t> offsets = {1};
  while (offsets.back() < static_cast<std::int64_t>(count + 1)) {
    const auto step = static_cast<std::int64_t>(random() % 40);
    offsets.push_back(std::min(offsets.back() + step, static_cast<std::int64_t>(count + 1)));
  }
  offsets.push_back(offsets.back());
  const std::size_t bags = offsets.size() - 1;
  const Expected expected = one_by_one(*cache, changed, true, true, {keys.begin() + 1, keys.end() - 1});
  for (const Pooling pooling : {Pooling::kMean, Pooling::kSum}) {
    std::vector<float> out(bags * kDim, -9.0F), right(bags * kDim);
    std::vector<Outcome> outcomes(keys.size());
    const OverlayLookup answered =
        overlay.lookup_pool(*cache, {keys.data(), keys.size()}, {offsets.data(), offsets.size()}, pooling,
                            {kDefault, kDim}, {out.data(), bags, kDim}, outcomes.data(), true);
    CHECK(same(answered, expected.answered));
    CHECK(std::equal(expected.outcomes.begin(), expected.outcomes.end(), outcomes.begin() + 1));
    if (answered.hits + answered.ours != count) continue;
    std::vector<std::int64_t> from(offsets);
    for (std::int64_t& offset : from) --offset;
    pool({reinterpret_cast<const std::byte*>(expected.rows.data()), count, kDim, RowType::kFloat32},
         {from.data(), from.size()}, pooling, {right.data(), bags, kDim});
    CHECK(out == right);
  }
}

}  // namespace

void row_overlay() {
  std::uint64_t seed = 0;
  for (const std::size_t changes : {std::size_t{1}, std::size_t{40}, std::size_t{300}}) {
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{255}, std::size_t{256},
                                    std::size_t{257}, std::size_t{1'500}})
      looked_up(changes, count, seed++);
  }
  for (const bool all_there : {false, true}) {
    for (const std::size_t changes : {std::size_t{1}, std::size_t{300}}) {
      for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{300}, std::size_t{1'100}})
        pooled(changes, count, all_there, seed++);
    }
  }
}

}  // namespace pepnet::test
