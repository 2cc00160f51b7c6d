// The set-associative cache: what its layout promises, keys that were chosen against it, and anything in any
// order.
#include "cache/row_cache.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "cache/key_hash.h"
#include "cache/row_cache.h"
#include "check.h"

namespace pepnet::test {
namespace {

using cache::Home;
using cache::Homes;
using cache::SetLayout;

constexpr std::size_t kDim = 5;
constexpr CachePolicy kPolicies[] = {CachePolicy::kLru, CachePolicy::kGset, CachePolicy::kLfu,
                                     CachePolicy::kSieve, CachePolicy::kS3Fifo};
constexpr RowType kTypes[] = {RowType::kFloat32, RowType::kFloat16, RowType::kBfloat16, RowType::kInt8};

constexpr Write kWrites[] = {Write::kInsert, Write::kUpdate, Write::kUpdateKnown, Write::kPut,
                             Write::kPutKnown};

PackedArray<std::uint64_t> view_of(const std::vector<std::uint64_t>& keys) {
  return {keys.data(), keys.size()};
}

// Whole numbers that every row type but int8 keeps as they are.
float number_of(std::uint64_t key) { return static_cast<float>(key % 251); }

std::vector<float> rows_of(const std::vector<std::uint64_t>& keys, std::size_t dim) {
  std::vector<float> rows;
  for (const std::uint64_t key : keys) rows.insert(rows.end(), dim, number_of(key));
  return rows;
}

struct Found {
  std::vector<Outcome> outcomes;
  std::vector<float> rows;
  std::size_t hits = 0;
};

Found look(RowCache& cache, const std::vector<std::uint64_t>& keys, std::size_t dim, bool counted = true) {
  Found found{std::vector<Outcome>(keys.size()), std::vector<float>(keys.size() * dim, -1.0F)};
  found.hits = cache.lookup(view_of(keys), {found.rows.data(), keys.size(), static_cast<std::ptrdiff_t>(dim)},
                            found.outcomes.data(), counted);
  return found;
}

// Every key that is said to be there has its own row, and the hits are counted as they were said.
std::size_t right_rows(RowCache& cache, const std::vector<std::uint64_t>& keys, std::size_t dim) {
  const Found found = look(cache, keys, dim);
  std::size_t right = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (found.outcomes[i] != Outcome::kRow) continue;
    const auto row = found.rows.begin() + static_cast<std::ptrdiff_t>(i * dim);
    CHECK(std::all_of(row, row + static_cast<std::ptrdiff_t>(dim),
                      [&](float value) { return value == number_of(keys[i]); }));
    ++right;
  }
  CHECK(right == found.hits);
  return right;
}

void hashes_are_bijections() {
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> keys = {0, 1, ~std::uint64_t{0}, std::uint64_t{1} << 63, 0xFFFF, 0x1'0000};
  for (int i = 0; i < 2'000; ++i) keys.push_back(random());
  for (const std::uint64_t key : keys) {
    CHECK(cache::unmix(mix(key)) == key);
    CHECK(mix(cache::unmix(key)) == key);
  }
  constexpr std::pair<std::uint32_t, std::uint32_t> kShapes[] = {
      {1, 1}, {1, 2}, {1, 3}, {3, 511}, {70'000, 509}};
  for (const auto& [regions, sets] : kShapes) {
    const Homes homes(random(), regions, sets);
    for (const std::uint64_t key : keys) {
      const Home home = homes.of(key);
      CHECK(homes.key_of(home.hash) == key);
      CHECK(home.region < regions && home.first < sets && home.second < sets);
      CHECK((home.first != home.second) == (sets > 1));
      CHECK(((home.rest() << 16) | (home.tag >> 16)) == home.hash);
    }
  }
}

// Sets share keys evenly whatever the keys have in common: the fullest is not far above the mean.
void keys_spread(const char* what, const std::vector<std::uint64_t>& keys) {
  const Homes homes(7, 4, 500);
  std::vector<std::size_t> load(2'000);
  for (const std::uint64_t key : keys) {
    const Home home = homes.of(key);
    ++load[home.region * 500 + home.first];
    ++load[home.region * 500 + home.second];
  }
  const double mean = 2.0 * static_cast<double>(keys.size()) / 2'000.0;
  double chi = 0.0;
  for (const std::size_t count : load) {
    chi += (static_cast<double>(count) - mean) * (static_cast<double>(count) - mean) / mean;
  }
  // Chi-squared with 1999 degrees of freedom: 1999 +- 63; eight of those for 4 kinds of keys.
  if (std::fabs(chi - 1999.0) > 8 * 63.2) std::printf("%s: chi %g\n", what, chi);
  CHECK(std::fabs(chi - 1999.0) < 8 * 63.2);
}

void keys_that_look_alike() {
  std::vector<std::uint64_t> sequential, low, high, strided;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    sequential.push_back(i);
    low.push_back(i << 44 | 0xABCDE);  // the same 44 low bits
    high.push_back(0xFEDC'BA98'0000'0000 | i * 3);
    strided.push_back(i * 65'536 + (i % 3 << 62));
  }
  // The two keys that other tables reserve.
  sequential.back() = ~std::uint64_t{0};
  const std::vector<std::uint64_t>* const all[] = {&sequential, &low, &high, &strided};
  const char* const names[] = {"sequential", "low", "high", "strided"};
  for (std::size_t i = 0; i < 4; ++i) {
    keys_spread(names[i], *all[i]);
    for (const CachePolicy policy : kPolicies) {
      CacheOptions options;
      options.dim = kDim;
      options.capacity_bytes = std::size_t{4} << 20;
      options.policy = policy;
      options.max_rows = 40'000;
      const auto cache = std::make_unique<RowCache>(options);
      const std::vector<float> rows = rows_of(*all[i], kDim);
      CHECK(cache->write({view_of(*all[i]), rows.data(), kDim}, Write::kInsert, nullptr) == all[i]->size());
      // Half full: hardly a set has all of its ways taken.
      CHECK(right_rows(*cache, *all[i], kDim) >= all[i]->size() - 20);
    }
  }
}

// Keys of one pair of sets, then of one tag as well: they evict each other and nobody else, and no two of
// them are taken for one another.
void keys_chosen_against_it() {
  CacheOptions options;
  options.dim = kDim;
  options.capacity_bytes = std::size_t{1} << 20;
  options.seed = 99;
  options.max_rows = 100 * cache::kWays;
  const SetLayout layout = SetLayout::fit(options);
  CHECK(layout.regions == 1 && layout.sets == 100);
  const Homes homes(options.seed, 1, 100);
  const std::uint64_t base = homes.hash_of(123);
  const Home target = homes.of_hash(base);
  for (const bool same_tag : {false, true}) {
    std::vector<std::uint64_t> chosen;
    std::mt19937_64 random(3);
    while (chosen.size() < (same_tag ? 300U : 1'000U)) {
      const std::uint64_t hash = (base & 0xFFFF'FFFF'0000'0000) |
                                 (same_tag ? (random() & 0xFFFF'0000) | (base & 0xFFFF) : random() >> 32);
      const Home home = homes.of_hash(hash);
      CHECK(home.first == target.first);
      if (home.second != target.second) continue;
      const std::uint64_t key = homes.key_of(hash);
      if (std::find(chosen.begin(), chosen.end(), key) == chosen.end()) chosen.push_back(key);
    }
    std::vector<std::uint64_t> others;
    for (std::uint64_t id = 0; others.size() < 300; ++id) {
      const Home home = homes.of(id << 20);
      const auto near = [&](std::uint32_t set) { return set == target.first || set == target.second; };
      if (!near(home.first) && !near(home.second)) others.push_back(id << 20);
    }
    for (const CachePolicy policy : kPolicies) {
      options.policy = policy;
      const auto cache = std::make_unique<RowCache>(options);
      const std::vector<float> rows = rows_of(chosen, kDim), other_rows = rows_of(others, kDim);
      CHECK(cache->write({view_of(others), other_rows.data(), kDim}, Write::kInsert, nullptr) == 300);
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        const std::vector<std::uint64_t> one = {chosen[i]};
        CHECK(look(*cache, one, kDim).hits == 0);
        CHECK(cache->write({view_of(one), rows.data() + i * kDim, kDim}, Write::kInsert, nullptr) == 1);
        CHECK(right_rows(*cache, one, kDim) == 1);
      }
      // No search goes beyond 16 ways: of all these keys no more can be there.
      CHECK(right_rows(*cache, chosen, kDim) == 2 * cache::kWays);
      CHECK(right_rows(*cache, others, kDim) == others.size());
      CHECK(cache->stats().evicted_policy == chosen.size() - 2 * cache::kWays);
      if (policy == CachePolicy::kLru) {
        const std::vector<std::uint64_t> last(chosen.end() - 2 * cache::kWays, chosen.end());
        CHECK(right_rows(*cache, last, kDim) == last.size());
      }
    }
  }
}

void repeats_are_counted() {
  for (const CachePolicy policy : kPolicies) {
    CacheOptions options;
    options.dim = kDim;
    options.capacity_bytes = std::size_t{1} << 20;
    options.policy = policy;
    const auto cache = std::make_unique<RowCache>(options);
    const std::vector<std::uint64_t> here = {5, 6};
    const std::vector<float> rows = rows_of(here, kDim);
    CHECK(cache->write({view_of(here), rows.data(), kDim}, Write::kInsert, nullptr) == 2);
    const std::vector<std::uint64_t> absent = {9};
    cache->mark_absent(view_of(absent));
    std::vector<std::uint64_t> keys(1'700, 5);
    for (std::size_t i = 0; i < keys.size(); i += 2) keys[i] = i % 4 == 0 ? 7 : 9;
    CHECK(right_rows(*cache, keys, kDim) == 850);
    (void)look(*cache, keys, kDim, false);  // not counted
    const CacheStats stats = cache->stats();
    CHECK(stats.hits == 850 && stats.misses == 425 && stats.negative_hits == 425);
    CHECK(stats.inserted == 2 && stats.negatives == 1 && stats.rows == 2);
  }
}

// Whatever version is there, or said that there is none; the second form only where anything is known.
void put_asks_for_no_version() {
  for (const CachePolicy policy : kPolicies) {
    CacheOptions options;
    options.dim = kDim;
    options.capacity_bytes = std::size_t{1} << 20;
    options.policy = policy;
    const auto cache = std::make_unique<RowCache>(options);
    const std::vector<std::uint64_t> row = {5}, deleted = {6}, absent = {7}, unknown = {8};
    const std::vector<float> old_row(kDim, 1.0F);
    const std::uint64_t high[] = {90};
    CHECK(cache->write({view_of(row), old_row.data(), kDim, nullptr, high}, Write::kInsert, nullptr) == 1);
    CHECK(cache->erase(view_of(deleted), high, nullptr) == 1);
    cache->mark_absent(view_of(absent));
    const std::vector<std::uint64_t> keys = {5, 6, 7, 8};
    const std::vector<float> rows(keys.size() * kDim, 2.0F);
    const std::uint64_t low[] = {3, 3, 3, 3};
    const RowBatch batch{view_of(keys), rows.data(), kDim, nullptr, low};
    WriteResult results[4];
    CHECK(cache->write(batch, Write::kUpdate, results) ==
          2);  // what says that there is none knows no version
    CHECK(results[0] == WriteResult::kStale && results[1] == WriteResult::kStale);
    CHECK(cache->forget(view_of(unknown)) == 1);
    CHECK(cache->write(batch, Write::kPutKnown, results) == 3);
    for (int i = 0; i < 3; ++i) CHECK(results[i] == WriteResult::kReplaced);
    CHECK(results[3] == WriteResult::kRejected);
    EntryInfo infos[4];
    cache->peek(view_of(keys), infos);
    for (int i = 0; i < 3; ++i) CHECK(infos[i].outcome == Outcome::kRow && infos[i].version == 3);
    CHECK(infos[3].outcome == Outcome::kMiss);
    const std::vector<std::uint64_t> other = {5, 8};
    const std::uint64_t next[] = {4, 4};
    CHECK(cache->write({view_of(other), rows.data(), kDim, nullptr, low}, Write::kUpdateKnown, results) == 0);
    CHECK(results[0] == WriteResult::kStale && results[1] == WriteResult::kRejected);
    CHECK(cache->write({view_of(other), rows.data(), kDim, nullptr, next}, Write::kUpdateKnown, results) ==
          1);
    CHECK(results[0] == WriteResult::kReplaced && results[1] == WriteResult::kRejected);
    CHECK(cache->write(batch, Write::kPut, results) == 4 && results[3] == WriteResult::kInserted);
    CHECK(look(*cache, keys, kDim).rows == rows);
    const CacheStats stats = cache->stats();
    CHECK(stats.rows == 4 && stats.negatives == 0 && stats.tombstones == 0 && stats.updates_applied == 4);
  }
}

// The parts of the one buffer do not overlap and fill it; s3fifo's ghosts, which come last, stay inside even
// where the buffer ends with the page. (Ghosts were once counted by another number than they were written
// by.)
void layouts_hold() {
  std::size_t to_the_byte = 0;
  for (const CachePolicy policy : {CachePolicy::kLru, CachePolicy::kS3Fifo}) {
    for (std::size_t dim = 1; dim < 70; ++dim) {
      for (std::size_t sets = 1; sets < 1'200; sets += sets < 600 ? 1 : 37) {
        CacheOptions options;
        options.dim = dim;
        options.capacity_bytes = std::size_t{16} << 20;
        options.policy = policy;
        options.max_rows = sets * cache::kWays;
        const SetLayout layout = SetLayout::fit(options);
        const std::size_t all = layout.regions * layout.sets;
        if (layout.regions == 0 || all > sets || all + layout.regions <= sets || layout.sets > 511 ||
            layout.sets_at - layout.regions_at != layout.regions * sizeof(cache::Region) ||
            layout.slots_at - layout.sets_at != all * sizeof(cache::Set) ||
            layout.ghosts_at - layout.slots_at != layout.rows() * layout.slot_bytes ||
            layout.bytes - layout.ghosts_at != all * (policy == CachePolicy::kS3Fifo ? 16 : 0)) {
          CHECK(false);
        }
        const bool full_page = layout.bytes % 65'536 == 0;
        if (policy != CachePolicy::kS3Fifo || !(full_page || (dim == 29 && sets == 104))) continue;
        to_the_byte += full_page;
        const auto cache = std::make_unique<RowCache>(options);
        std::vector<std::uint64_t> keys(all * 40);
        for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
        const std::vector<float> rows = rows_of(keys, dim);
        (void)cache->write({view_of(keys), rows.data(), static_cast<std::ptrdiff_t>(dim)}, Write::kInsert,
                           nullptr);
        CHECK(cache->stats().evicted_policy > all);
        CHECK(right_rows(*cache, keys, dim) == cache->stats().rows);
      }
    }
  }
  CHECK(to_the_byte > 0);
}

// Everything there is, in any order and for as many steps: rows are whole and of their key, counts add up,
// nothing is touched outside (the sanitizers').
void anything_in_any_order(CachePolicy policy, RowType type) {
  CacheOptions options;
  options.dim = kDim;
  options.type = type;
  options.capacity_bytes = std::size_t{1} << 20;
  options.max_rows = 256;
  options.policy = policy;
  options.interval = 5.0;
  options.fields = {{.table = 1, .high_priority = true, .ttl = 9.0},
                    {.table = 2, .share = 0.05, .admission = 0.5},
                    {.table = 3, .ttl = 400.0}};
  const auto cache = std::make_unique<RowCache>(options);
  CHECK(cache->capacity_rows() == 256 && cache->memory_bytes() <= options.capacity_bytes);
  double now = 1'000.0;
  cache->set_time(now);
  std::mt19937_64 random(7 + static_cast<std::uint64_t>(policy));
  std::vector<std::uint64_t> keys, versions;
  std::vector<float> rows, scores, out(16 * kDim);
  std::vector<double> expires;
  bool positive[16];
  Outcome outcomes[16];
  std::uint64_t inserted = 0, applied = 0;
  for (int step = 0; step < 6'000; ++step) {
    const std::size_t count = 1 + random() % 16;
    keys.clear(), versions.clear(), scores.clear(), expires.clear();
    for (std::size_t i = 0; i < count; ++i) {
      keys.push_back((random() % 4) << 48 | (random() % 300));
      versions.push_back(random() % 1'000 + static_cast<std::uint64_t>(step));
      scores.push_back(random() % 2 == 0 ? static_cast<float>(random() % 9) : std::nanf(""));
      expires.push_back(random() % 3 == 0 ? now + static_cast<double>(random() % 3'000) : kNever);
      positive[i] = random() % 2 == 0;
    }
    rows.clear();
    // Of one number each: int8 keeps such a row to a rounding of its scale.
    for (const std::uint64_t key : keys) rows.insert(rows.end(), kDim, number_of(key));
    const std::int64_t offsets[] = {0, static_cast<std::int64_t>(count / 2),
                                    static_cast<std::int64_t>(count)};
    switch (random() % 8) {
      case 0:
      case 1: {
        const Write how = kWrites[random() % std::size(kWrites)];
        const std::size_t done = cache->write(
            {view_of(keys), rows.data(), kDim, scores.data(), versions.data(), expires.data()}, how, nullptr);
        inserted += done;
        applied += how == Write::kUpdate || how == Write::kUpdateKnown ? done : 0;
        break;
      }
      case 2:
        applied += cache->erase(view_of(keys), versions.data(), random() % 2 == 0 ? nullptr : expires.data());
        break;
      case 3:
        cache->mark_absent(view_of(keys));
        break;
      case 4:
        (void)cache->feedback(view_of(keys), positive);
        break;
      case 5:
        (void)cache->lookup_pool(view_of(keys), {offsets, 3}, Pooling::kMean, {out.data(), 2, kDim}, outcomes,
                                 true);
        break;
      case 6:
        now += random() % 40 == 0 ? 5'000.0 : static_cast<double>(random() % 4);
        cache->set_time(now);
        if (random() % 500 == 0) cache->clear();
        break;
      default:
        for (const std::size_t found =
                 cache->lookup(view_of(keys), {out.data(), count, kDim}, outcomes, true);
             const std::size_t i : {std::size_t{0}, count - 1}) {
          CHECK(found <= count);
          if (outcomes[i] != Outcome::kRow) continue;
          for (std::size_t d = 0; d < kDim; ++d)
            CHECK(std::fabs(out[i * kDim + d] - number_of(keys[i])) <= 1e-4F * number_of(keys[i]));
        }
    }
    if (step % 100 == 0) CHECK(cache->stats().rows <= cache->capacity_rows());
  }
  const CacheStats stats = cache->stats();
  std::size_t there = 0;
  for (std::size_t i = 0; i < cache->parts(); ++i) {
    const CachePart part = cache->part(i);
    there += part.keys.size();
    CHECK(part.rows.size() == part.keys.size() * kDim && part.order.size() == part.keys.size());
  }
  // `part` leaves out what has expired and was not cleared away yet.
  CHECK(there <= stats.rows + stats.negatives + stats.tombstones && there <= cache->capacity_rows());
  CHECK(stats.inserted + stats.replaced == inserted && stats.updates_applied == applied);
  CHECK(stats.evicted_policy > 0 && stats.evicted_expired > 0 && stats.rejected_admission > 0);
}

// One way after the other, as a reader of its comment would.
void the_least_of_two_sets() {
  std::mt19937 engine(11);
  const auto random = [&] { return static_cast<std::uint32_t>(engine()); };
  for (int round = 0; round < 2'000; ++round) {
    cache::Set sets[2];
    std::uint32_t flags = 0, least = 0;
    const cache::Set* of = nullptr;
    unsigned at = 0;
    const std::uint32_t base = random();
    for (cache::Set& set : sets) {
      for (unsigned way = 0; way < cache::kWays; ++way) {
        const bool empty = random() % 3 == 0;
        const std::uint32_t word = empty ? cache::kEmpty : (random() & ~cache::kSlotBits) | random() % 4000;
        const std::uint32_t order = random() % 4 == 0 ? base + random() % 3 : random();
        set.hot[way] = word;
        set.order[way] = order;
        flags |= word;
        if (empty || (of != nullptr && order - base >= least)) continue;
        least = order - base;
        of = &set;
        at = way;
      }
    }
    const cache::Least found = cache::least_of(sets[0], sets[1], base);
    CHECK(found.any() == (of != nullptr));
    CHECK(found.flags == flags);
    if (of != nullptr) CHECK(&sets[found.set()] == of && found.way() == at);
  }
}

}  // namespace

void row_cache() {
  hashes_are_bijections();
  keys_that_look_alike();
  keys_chosen_against_it();
  repeats_are_counted();
  put_asks_for_no_version();
  layouts_hold();
  the_least_of_two_sets();
  for (const CachePolicy policy : kPolicies) {
    for (const RowType type : kTypes) anything_in_any_order(policy, type);
  }
}

}  // namespace pepnet::test
