#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "check.h"
#include "encode/number_column.h"
#include "encode/side_rows.h"

namespace pepnet::test {
namespace {

constexpr double kMost = std::numeric_limits<double>::max();

// Values of T at an odd address, `gap` bytes between them, forwards or backwards, in as many bytes as that
// takes.
template <class T>
struct Spread {
  Spread(const std::vector<T>& values, std::ptrdiff_t gap, bool backwards, const NumberType* type)
      : bytes(std::make_unique<std::byte[]>(1 + size_of(values.size(), gap))) {
    const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(sizeof(T)) + gap;
    const std::size_t last = values.empty() ? 0 : values.size() - 1;
    const std::byte* first = bytes.get() + 1 + (backwards ? static_cast<std::ptrdiff_t>(last) * stride : 0);
    column = {first, backwards ? -stride : stride, type};
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::ptrdiff_t from = (first - bytes.get()) + static_cast<std::ptrdiff_t>(i) * column.stride;
      std::memcpy(bytes.get() + from, &values[i], sizeof(T));
    }
  }

  static std::size_t size_of(std::size_t count, std::ptrdiff_t gap) {
    return count == 0 ? 0 : count * sizeof(T) + (count - 1) * static_cast<std::size_t>(gap);
  }

  std::unique_ptr<std::byte[]> bytes;
  NumberColumn column;
};

template <class T, class Work>
void each_spread(const std::vector<T>& values, const NumberType* type, Work work) {
  for (const std::ptrdiff_t gap : {0, 3, 8})
    for (const bool backwards : {false, true}) work(Spread<T>(values, gap, backwards, type).column);
}

template <class T>
void integers_of(const NumberType* type) {
  std::mt19937_64 random(7);
  for (const std::size_t count : {0U, 1U, 2U, 7U, 64U, 1030U}) {
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>(random() & 0x7F);
    values.resize(count);
    const auto check = [&](bool all) {
      each_spread(values, type, [&](const NumberColumn& column) {
        const auto keys = std::make_unique<std::uint64_t[]>(count);
        CHECK(keys_of(column, count, 0xFFFE, keys.get()) == all);
        for (std::size_t i = 0; all && i < count; ++i)
          CHECK(keys[i] == (std::uint64_t{0xFFFE} << 48 | static_cast<std::uint64_t>(values[i])));
        const auto dense = std::make_unique<float[]>(count);
        CHECK(dense_of(column, count, {false, 3.0, 0.7}, dense.get()));
        for (std::size_t i = 0; i < count; ++i)
          CHECK(dense[i] == static_cast<float>((static_cast<double>(values[i]) - 3.0) / 0.7));
      });
    };
    check(true);
    if (count == 0) continue;
    const std::size_t at = random() % count;
    if constexpr (std::is_signed_v<T>) {
      values[at] = -1;
      check(false);
      values[at] = std::numeric_limits<T>::min();
      check(false);
    }
    values[at] = std::numeric_limits<T>::max();
    check(sizeof(T) < 8);
    if constexpr (sizeof(T) == 8) {
      values[at] = T{1} << 48;
      check(false);
      values[at] = (T{1} << 48) - 1;
      check(true);
    }
  }
}

template <class T>
void floats_of(const NumberType* type) {
  std::mt19937_64 random(8);
  for (const std::size_t count : {0U, 1U, 5U, 512U, 1500U}) {
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>(std::ldexp(static_cast<double>(random() >> 11), -40)) - 64;
    const auto check = [&](bool all) {
      each_spread(values, type, [&](const NumberColumn& column) {
        const auto out = std::make_unique<float[]>(count);
        CHECK(dense_of(column, count, {}, out.get()) == all);
        for (std::size_t i = 0; all && i < count; ++i) CHECK(out[i] == static_cast<float>(values[i]));
        const auto keys = std::make_unique<std::uint64_t[]>(count);
        CHECK(!keys_of(column, count, 1, keys.get()));
      });
    };
    check(true);
    if (count == 0) continue;
    const std::size_t at = random() % count;
    for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                        -std::numeric_limits<T>::infinity()}) {
      const T kept = std::exchange(values[at], bad);
      check(false);
      values[at] = kept;
    }
    if constexpr (sizeof(T) == 8) {  // too large for a float, but not once it is scaled
      values[at] = 1e300;
      check(false);
      const Spread<T> spread(values, 0, false, type);
      const auto out = std::make_unique<float[]>(count);
      CHECK(dense_of(spread.column, count, {false, 0.0, 1e290}, out.get()));
      CHECK(out[at] == static_cast<float>(1e300 / 1e290));
      CHECK(dense_of(spread.column, count, {true, 0.0, 1.0}, out.get()));
    }
  }
}

void log1p_is_near() {
  std::mt19937_64 random(9);
  std::vector<double> values{0.0,  -0.0,   5e-324, -5e-324,    0.5,   1.0,
                             -1.0, 0x1p52, 0x1p53, 0x1p53 + 2, kMost, -kMost};
  for (int i = 0; i < 200'000; ++i) {
    const double fraction = 1.0 + std::ldexp(static_cast<double>(random() >> 11), -53);
    const double value = std::ldexp(
        fraction, static_cast<int>(random() % (i % 2 == 0 ? 2040 : 80)) - (i % 2 == 0 ? 1020 : 60));
    values.push_back(random() % 2 == 0 ? value : -value);
  }
  std::vector<double> got(values.size());
  signed_log1p(values.data(), values.size(), got.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double want = std::log1p(std::fabs(values[i]));  // the library's is within one unit
    CHECK(std::signbit(got[i]) == std::signbit(values[i]));
    CHECK(std::fabs(std::fabs(got[i]) - want) <= 2.5 * (std::nextafter(want, kMost) - want));
    double alone = values[i];
    signed_log1p(&alone, 1, &alone);
    CHECK(std::memcmp(&alone, &got[i], sizeof alone) == 0);
  }
}

void rows_are_picked() {
  constexpr std::size_t kRows = 40, kWidth = 9;
  const auto ids = std::make_unique<std::uint64_t[]>(kRows * kWidth);
  const auto numbers = std::make_unique<float[]>(kRows * kWidth);
  for (std::size_t i = 0; i < kRows * kWidth; ++i) ids[i] = i, numbers[i] = static_cast<float>(i);
  std::mt19937_64 random(10);
  for (const std::size_t count : {0U, 1U, 16U, 17U, 300U}) {
    std::vector<std::int64_t> positions(count);
    for (auto& position : positions) position = static_cast<std::int64_t>(random() % kRows);
    if (count > 1) positions[0] = kRows - 1, positions[count - 1] = 0;
    for (const std::vector<std::size_t>& columns : {std::vector<std::size_t>{}, {8}, {3, 0, 3, 8}}) {
      std::vector<std::uint64_t> keys(columns.size() * count);
      std::vector<float> values(columns.size() * count);
      pick_columns(ids.get(), kWidth, columns.data(), columns.size(), positions.data(), count, keys.data());
      pick_columns(numbers.get(), kWidth, columns.data(), columns.size(), positions.data(), count,
                   values.data());
      for (std::size_t c = 0; c < columns.size(); ++c)
        for (std::size_t i = 0; i < count; ++i) {
          const std::uint64_t want = static_cast<std::size_t>(positions[i]) * kWidth + columns[c];
          CHECK(keys[c * count + i] == want);
          CHECK(values[c * count + i] == static_cast<float>(want));
        }
    }
    std::vector<std::int64_t> offsets(kRows + 1);
    for (std::size_t row = 0; row < kRows; ++row)
      offsets[row + 1] = offsets[row] + static_cast<std::int64_t>(random() % 4);
    std::vector<std::uint64_t> inside(static_cast<std::size_t>(offsets[kRows]));
    for (std::size_t i = 0; i < inside.size(); ++i) inside[i] = 1000 + i;
    const BagsView bags{{inside.data(), inside.size()}, {offsets.data(), offsets.size()}};
    std::vector<std::int64_t> ends(count + 1);
    std::vector<std::uint64_t> picked(pick_offsets(bags, positions.data(), count, ends.data()));
    pick_keys(bags, positions.data(), count, picked.data());
    std::vector<std::uint64_t> want;
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(ends[i] == static_cast<std::int64_t>(want.size()));
      const auto row = static_cast<std::size_t>(positions[i]);
      for (std::int64_t at = offsets[row]; at < offsets[row + 1]; ++at)
        want.push_back(inside[static_cast<std::size_t>(at)]);
    }
    CHECK(ends[count] == static_cast<std::int64_t>(want.size()));
    CHECK(picked == want);
  }
}

}  // namespace

void features() {
  integers_of<std::int8_t>(number_type('i', 1));
  integers_of<std::int16_t>(number_type('i', 2));
  integers_of<std::int32_t>(number_type('i', 4));
  integers_of<std::int64_t>(number_type('i', 8));
  integers_of<std::uint8_t>(number_type('u', 1));
  integers_of<std::uint16_t>(number_type('u', 2));
  integers_of<std::uint32_t>(number_type('u', 4));
  integers_of<std::uint64_t>(number_type('u', 8));
  floats_of<float>(number_type('f', 4));
  floats_of<double>(number_type('f', 8));
  log1p_is_near();
  rows_are_picked();
}

}  // namespace pepnet::test
