#include "rows/key_index.h"

#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "check.h"

namespace pepnet::test {
namespace {

using Keys = std::vector<std::uint64_t>;

PackedArray<std::uint64_t> view(const Keys& keys) { return {keys.data(), keys.size()}; }

// Every key at its position and the probes as std::unordered_map says.
void check_against_map(const Keys& keys, const Keys& probes) {
  const KeyIndex index(view(keys));
  std::unordered_map<std::uint64_t, std::int64_t> truth;
  for (std::size_t i = 0; i < keys.size(); ++i) truth[keys[i]] = static_cast<std::int64_t>(i);
  Keys asked = probes;
  asked.insert(asked.end(), keys.begin(), keys.end());
  std::vector<std::int64_t> positions(asked.size(), -7);
  index.find(view(asked), positions.data());
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto found = truth.find(asked[i]);
    CHECK(positions[i] == (found == truth.end() ? KeyIndex::kAbsent : found->second));
  }
}

// The inverse of mix, by running its three steps backwards: the multipliers' inverses modulo 2^64.
std::uint64_t unmix(std::uint64_t x) {
  const auto unshift = [](std::uint64_t y, unsigned by) {
    std::uint64_t z = y;
    for (unsigned done = by; done < 64; done += by) z = y ^ (z >> by);
    return z;
  };
  const auto inverse = [](std::uint64_t m) {
    std::uint64_t i = m;  // Newton: each round doubles the number of right bits, 3 to begin with
    for (int round = 0; round < 5; ++round) i *= 2 - m * i;
    return i;
  };
  x = unshift(x, 31) * inverse(0x94D0'49BB'1331'11EB);
  x = unshift(x, 27) * inverse(0xBF58'476D'1CE4'E5B9);
  return unshift(x, 30);
}

void sizes_and_extremes() {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  check_against_map({}, {0, 1, kMax});
  check_against_map({0}, {1, kMax});
  check_against_map({kMax}, {0, 1});
  check_against_map({0, kMax, 1, kMax - 1}, {2, kMax - 2});
  std::mt19937_64 random(1);
  for (std::size_t n = 2; n < 300; n += 7) {
    Keys keys, probes;
    for (std::size_t i = 0; i < n; ++i) {
      keys.push_back(i << (n % 55));  // 9 bits in use, wherever they are
      probes.push_back(random());
    }
    check_against_map(keys, probes);
  }
}

void many() {
  std::mt19937_64 random(2);
  Keys keys, probes;
  for (std::uint64_t i = 0; i < 40'000; ++i) {
    keys.push_back((std::uint64_t{7} << 48) + i * 3);
    probes.push_back((std::uint64_t{7} << 48) + i * 3 + 1);
    probes.push_back(random());
  }
  check_against_map(keys, probes);
  const KeyIndex index(view(keys));
  CHECK(index.size() == keys.size());
  // Two megabytes of padding at most beyond the 19 bytes a key that the header promises.
  CHECK(index.memory_bytes() <= keys.size() * 19 + (2U << 20));
}

// Keys whose hashes under the first seed all begin with the same bits fall into one bucket. The index has to
// notice and take another seed: without one there is no table.
void crafted() {
  Keys keys;
  for (std::uint64_t i = 0; i < 5'000; ++i) keys.push_back(unmix(i));
  for (const std::uint64_t i : {0U, 1U, 4'999U}) CHECK(mix(keys[i]) == i);
  check_against_map(keys, {unmix(5'000), unmix(6'000), 1, 2, 3});
  // Under the first seed they have one home, and a search would walk a thousand buckets.
  const KeyIndex index(view(keys));
  std::unordered_set<std::size_t> homes;
  for (const std::uint64_t key : keys) homes.insert(index.home(key));
  CHECK(homes.size() > 1'000);
}

void duplicates() {
  for (const Keys& keys : {Keys{5, 6, 5}, Keys{0, 0}}) {
    std::string message;
    try {
      const KeyIndex index(view(keys));
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    CHECK(message.find("at positions 0 and " + std::to_string(keys.size() - 1)) != std::string::npos);
  }
}

void unaligned() {
  const Keys keys = {11, 22, 33};
  const auto bytes = std::make_unique<std::byte[]>(sizeof(std::uint64_t) * 3 + 1);
  std::memcpy(bytes.get() + 1, keys.data(), sizeof(std::uint64_t) * 3);
  const PackedArray<std::uint64_t> odd(bytes.get() + 1, 3);
  const KeyIndex index(odd);
  std::int64_t positions[3] = {};
  index.find(odd, positions);
  for (std::int64_t i = 0; i < 3; ++i) CHECK(positions[i] == i);
}

}  // namespace

void key_index() {
  sizes_and_extremes();
  many();
  crafted();
  duplicates();
  unaligned();
}

}  // namespace pepnet::test
