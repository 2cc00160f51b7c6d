// Torn rows, versions that go back, and races: writers at full speed on 64 ids, readers beside them.
//
// PEPNET_SOAK_SECONDS makes it last that long in all; otherwise it is a fraction of a second, for every
// build.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cache/row_cache.h"
#include "check.h"

namespace pepnet::test {
namespace {

constexpr std::size_t kIds = 64;
constexpr CachePolicy kPolicies[] = {CachePolicy::kLru, CachePolicy::kGset, CachePolicy::kLfu,
                                     CachePolicy::kSieve, CachePolicy::kS3Fifo};
constexpr RowType kTypes[] = {RowType::kFloat32, RowType::kFloat16, RowType::kBfloat16, RowType::kInt8};
constexpr std::size_t kDims[] = {13, 16, 40, 257};  // the second and third have loops of their own
constexpr int kHeader = 6;

std::uint64_t key_of(std::size_t id) { return id * 0x9E37'79B9'7F4A'7C15 + (id << 40); }

// A row says its id and its version, and each further number is a function of both and of its place. Whole
// numbers of at most 127 times a power of two, of which the first is the largest: every row type keeps them
// as they are. The second half is the first with the other sign, so that sums of rows add up to nothing too.
float expected_at(std::size_t place, std::uint64_t id, std::uint64_t version) {
  const auto scale = static_cast<float>(1U << (version % 4));
  switch (place) {
    case 0:
      return 127.0F * scale;
    case 1:
      return static_cast<float>(id) * scale;
    case 2:
    case 3:
    case 4:
    case 5: {
      std::uint64_t digit = version;
      for (std::size_t i = 2; i < place; ++i) digit /= 100;
      return static_cast<float>(digit % 100) * scale;
    }
    default: {
      const std::uint64_t mixed = (version * 64 + id + place * 0x1'0001) * 0x9E37'79B9'7F4A'7C15;
      return static_cast<float>((mixed >> 40) % 120) * scale;
    }
  }
}

void fill_row(float* row, std::size_t dim, std::uint64_t id, std::uint64_t version) {
  const std::size_t half = dim / 2;
  row[dim - 1] = 0.0F;  // of an odd width
  for (std::size_t i = 0; i < half; ++i) {
    row[i] = expected_at(i, id, version);
    row[half + i] = -row[i];
  }
}

// The version that a row says, or 0 when it is not a row of that id as it was written.
std::uint64_t version_of(const float* row, std::size_t dim, std::uint64_t id) {
  const float scale = row[0] / 127.0F;
  if (!(scale == 1.0F || scale == 2.0F || scale == 4.0F || scale == 8.0F)) return 0;
  std::uint64_t version = 0;
  for (int place = kHeader - 1; place >= 2; --place) {
    const float digit = row[place] / scale;
    if (!(digit >= 0.0F && digit < 100.0F)) return 0;
    version = version * 100 + static_cast<std::uint64_t>(digit);
  }
  std::vector<float> whole(dim);
  fill_row(whole.data(), dim, id, version);
  return std::equal(whole.begin(), whole.end(), row) ? version : 0;
}

struct Shared {
  RowCache& cache;
  std::size_t dim;
  bool evicts;  // a fill after an eviction may bring an older row: updates and deletions only
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> next{1};
  std::atomic<std::uint64_t> torn{0}, back{0}, read{0}, pooled{0}, written{0};
};

void write(Shared& shared, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> keys(8), versions(8);
  std::vector<float> rows(8 * shared.dim), scores(8);
  bool positive[8];
  while (!shared.stop.load(std::memory_order_relaxed)) {
    const std::size_t count = 1 + random() % 8;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t id = random() % kIds;
      keys[i] = key_of(id);
      // Now and then a number from the past: it must not be applied.
      const std::uint64_t next = shared.next.fetch_add(1, std::memory_order_relaxed);
      versions[i] = random() % 8 == 0 ? next - random() % std::min<std::uint64_t>(next, 500) : next;
      scores[i] = random() % 2 == 0 ? static_cast<float>(random() % 9) : std::nanf("");
      positive[i] = random() % 2 == 0;
      fill_row(rows.data() + i * shared.dim, shared.dim, id, versions[i]);
    }
    const PackedArray<std::uint64_t> view(keys.data(), count);
    const RowBatch batch{view, rows.data(), static_cast<std::ptrdiff_t>(shared.dim), scores.data(),
                         versions.data()};
    const std::uint64_t what = random() % 32;
    if (what == 0) {
      (void)shared.cache.erase(view, versions.data(), nullptr);
    } else if (what == 1) {
      (void)shared.cache.feedback(view, positive);
    } else if (what == 2) {
      (void)shared.cache.part(random() % shared.cache.parts());
    } else if (what < 8 && !shared.evicts) {
      shared.written += shared.cache.write(batch, Write::kInsert, nullptr);
    } else {
      shared.written += shared.cache.write(batch, Write::kUpdate, nullptr);
    }
  }
}

void read(Shared& shared, std::uint64_t seed) {
  constexpr std::size_t kBatch = 96;
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> keys(kBatch), ids(kBatch), newest(kIds);
  std::vector<float> out(kBatch * shared.dim);
  std::vector<std::int64_t> offsets;
  Outcome outcomes[kBatch];
  std::uint64_t seen_now[kIds];
  const auto stride = static_cast<std::ptrdiff_t>(shared.dim);
  while (!shared.stop.load(std::memory_order_relaxed)) {
    for (std::size_t i = 0; i < kBatch; ++i) {
      ids[i] = random() % kIds;
      keys[i] = key_of(ids[i]);
    }
    const PackedArray<std::uint64_t> view(keys.data(), kBatch);
    const bool pool = random() % 4 == 0;
    // Bags of one key are rows; bags of several add up to nothing.
    const std::size_t bag = pool && random() % 2 == 0 ? 3 : 1;
    if (pool) {
      offsets.clear();
      for (std::size_t at = 0; at <= kBatch; at += bag) offsets.push_back(static_cast<std::int64_t>(at));
      (void)shared.cache.lookup_pool(view, {offsets.data(), offsets.size()},
                                     bag == 1 ? Pooling::kMean : Pooling::kSum,
                                     {out.data(), kBatch / bag, stride}, outcomes, true);
    } else {
      (void)shared.cache.lookup(view, {out.data(), kBatch, stride}, outcomes, random() % 2 == 0);
    }
    if (bag != 1) {
      for (std::size_t b = 0; b < kBatch / bag; ++b) {
        if (!std::all_of(outcomes + b * bag, outcomes + (b + 1) * bag,
                         [](Outcome o) { return o == Outcome::kRow; }))
          continue;
        const float* const row = out.data() + b * shared.dim;
        const std::size_t half = shared.dim / 2;
        bool whole = true;
        for (std::size_t i = 0; i < half; ++i) whole = whole && row[i] + row[half + i] == 0.0F;
        shared.torn += !whole;
        ++shared.pooled;
      }
      continue;
    }
    std::copy(newest.begin(), newest.end(), seen_now);
    for (std::size_t i = 0; i < kBatch; ++i) {
      if (outcomes[i] != Outcome::kRow) continue;
      const std::uint64_t version = version_of(out.data() + i * shared.dim, shared.dim, ids[i]);
      ++shared.read;
      shared.torn += version == 0;
      // Within a call repeats may come in either order; between calls an id's version never goes back.
      shared.back += version != 0 && version < newest[ids[i]];
      seen_now[ids[i]] = std::max(seen_now[ids[i]], version);
    }
    std::copy(seen_now, seen_now + kIds, newest.begin());
  }
}

void run_for(double seconds, CachePolicy policy, RowType type, std::size_t dim, bool evicts) {
  CacheOptions options;
  options.dim = dim;
  options.type = type;
  options.capacity_bytes = std::size_t{2} << 20;
  options.policy = policy;
  // 48 of the 64 ids at most, in the closest quarters: a slot that is given up is taken again at once.
  options.max_rows = evicts ? 48 : 160;
  const auto cache = std::make_unique<RowCache>(options);
  Shared shared{*cache, dim, evicts};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 2; ++t) {
    threads.emplace_back([&shared, t] { write(shared, t); });
    threads.emplace_back([&shared, t] { read(shared, 100 + t); });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  // However slow the machine: something must have been read and written while the other was at it.
  for (int patience = 0; patience < 20'000 && (shared.read < 200 || shared.written < 200); ++patience)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  shared.stop = true;
  for (std::thread& thread : threads) thread.join();
  if (shared.torn + shared.back != 0) {
    std::printf("policy %d, rows %d x %zu, %s: of %llu rows and %llu bags read %llu torn, %llu went back\n",
                static_cast<int>(policy), static_cast<int>(type), dim, evicts ? "evicting" : "all resident",
                static_cast<unsigned long long>(shared.read), static_cast<unsigned long long>(shared.pooled),
                static_cast<unsigned long long>(shared.torn), static_cast<unsigned long long>(shared.back));
  }
  CHECK(shared.torn == 0);
  CHECK(shared.back == 0);
  CHECK(shared.read >= 200 && shared.written >= 200);
  const CacheStats stats = cache->stats();
  CHECK(stats.rows + stats.tombstones <= (evicts ? cache->capacity_rows() : kIds));
  CHECK((stats.evicted_policy > 0) == evicts);
}

}  // namespace

void row_cache_threads() {
  const char* const soak = std::getenv("PEPNET_SOAK_SECONDS");
  const double seconds = (soak != nullptr ? std::stod(soak) : 0.4) / 40.0;
  std::size_t at = 0;
  for (const CachePolicy policy : kPolicies) {
    for (const RowType type : kTypes) {
      for (const bool evicts : {false, true}) run_for(seconds, policy, type, kDims[at++ % 4], evicts);
      ++at;  // other widths for the next type
    }
  }
}

}  // namespace pepnet::test
