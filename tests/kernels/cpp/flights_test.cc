// The table of flights: against a map, and the order of a fill and an update under threads.
#include "cache/flights.h"

#include <atomic>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "check.h"

namespace pepnet::test {
namespace {

using cache::FlightTable;
using Keys = std::vector<std::uint64_t>;

PackedArray<std::uint64_t> view(const Keys& keys) { return {keys.data(), keys.size()}; }

void check_against_map() {
  FlightTable table;
  std::map<std::uint64_t, std::uint64_t> truth;
  std::map<std::uint64_t, Keys> asked;  // by flight
  std::mt19937_64 random(1);
  for (std::uint64_t flight = 1; flight < 2000; ++flight) {
    Keys keys;
    for (std::uint64_t key = 0; key < 300; ++key) {
      if (random() % 8 == 0) keys.push_back(key == 0 ? ~std::uint64_t{0} : key << 48);
    }
    if (random() % 2 == 0) {
      std::vector<std::uint64_t> owners(keys.size());
      table.begin(view(keys), flight, owners.data());
      for (std::size_t i = 0; i < keys.size(); ++i)
        CHECK(owners[i] == truth.try_emplace(keys[i], flight).first->second);
      asked[flight] = keys;
    } else if (!truth.empty()) {
      const std::uint64_t ended = truth.begin()->second;
      table.end(view(asked[ended]), ended);
      for (const std::uint64_t key : asked[ended]) {
        if (const auto at = truth.find(key); at != truth.end() && at->second == ended) truth.erase(at);
      }
    }
    CHECK(table.size() == truth.size());
  }
}

// A cache of versions that forgets at any moment, so that only the table keeps an older one out.
void check_no_older_row() {
  constexpr std::size_t kIds = 4;
  FlightTable table;
  std::atomic<std::uint64_t> store[kIds] = {}, cached[kIds] = {}, flights{0};
  std::atomic<bool> stop{false};
  std::atomic<int> fills{0}, wrong{0};  // threads do not use CHECK, which counts
  const auto fetch = [&](unsigned seed) {
    std::mt19937 random(seed);
    while (!stop.load()) {
      const Keys keys{random() % kIds};
      const std::uint64_t flight = flights.fetch_add(1) + 1;
      std::uint64_t owner = 0;
      table.begin(view(keys), flight, &owner);
      if (owner != flight) continue;
      const std::uint64_t version = store[keys[0]].load();
      if (random() % 2 == 0) std::this_thread::yield();
      bool kept = false;
      if (table.land(view(keys), flight, &kept) == 1) {
        if (!kept) ++wrong;
        if (random() % 2 == 0) std::this_thread::yield();
        cached[keys[0]].store(version);
        ++fills;
      }
      table.end(view(keys), flight);
    }
  };
  // One updater an id. The store has the update first; what is cached after it is never older.
  const auto update = [&](std::uint64_t id) {
    const Keys keys{id};
    for (std::uint64_t version = 1; version < 20000; ++version) {
      store[id].store(version);
      table.touch(view(keys));
      cached[id].store(version);
      std::this_thread::yield();
      for (int look = 0; look < 8; ++look) wrong += cached[id].load() != version;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) threads.emplace_back(fetch, seed);
  std::vector<std::thread> updaters;
  for (std::uint64_t id = 0; id < kIds; id += 2) updaters.emplace_back(update, id);
  for (std::thread& thread : updaters) thread.join();
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  CHECK(fills.load() > 0);
  CHECK(table.size() == 0);
}

void check_serve() {
  const float rows[] = {1, 2, 3, 4}, other[] = {8, 9};
  const std::int64_t sources[] = {1, -1, 7, 0, 1}, positions[] = {0, 2, 3, 5, -1};
  float out[8] = {};
  const std::size_t defaults =
      cache::serve({reinterpret_cast<const std::byte*>(rows), 2, 2, RowType::kFloat32}, {sources, 5},
                   {positions, 5}, {other, 2}, {out, 4, 2});
  CHECK(defaults == 2);
  const float expected[] = {3, 4, 0, 0, 8, 9, 8, 9};
  for (std::size_t i = 0; i < 8; ++i) CHECK(out[i] == expected[i]);
}

}  // namespace

void flights() {
  check_against_map();
  check_no_older_row();
  check_serve();
}

}  // namespace pepnet::test
