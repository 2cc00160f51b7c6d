#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "rows/half.h"
#include "rows/lookup.h"

namespace pepnet::test {
namespace {

// By the definition of binary16 and bfloat16: sign, exponent, fraction.
double value_of(std::uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits & 0x7FFF) >> fraction_bits;
  const double fraction = std::ldexp(bits & ((1 << fraction_bits) - 1), -fraction_bits);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias));
}

bool same(float got, double want) {
  if (std::isnan(want)) return std::isnan(got);
  return static_cast<double>(got) == want && std::signbit(got) == std::signbit(want);
}

void every_half() {
  for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    CHECK(same(float_from_half(half), value_of(half, 5)));
    CHECK(same(float_from_bfloat16(half), value_of(half, 8)));
  }
}

// A table of exactly as many bytes as it needs, at an odd address: a read past either end is one the
// sanitizer sees.
struct Case {
  Case(RowType type, std::size_t count, std::size_t dim, std::uint64_t seed)
      : bytes(std::make_unique<std::byte[]>(1 + count * row_bytes(type, dim))),
        view{bytes.get() + 1, count, dim, type},
        default_row(dim) {
    std::mt19937_64 random(seed);
    for (std::size_t i = 0; i < count * dim; ++i) {
      double value = 0;
      if (type == RowType::kFloat32) {
        const auto number = static_cast<float>(std::ldexp(static_cast<double>(random() >> 40), -20)) - 8.0F;
        std::memcpy(bytes.get() + 1 + i * 4, &number, 4);
        value = static_cast<double>(number);
      } else {
        const int exponent_bits = type == RowType::kFloat16 ? 5 : 8;
        const auto bits = static_cast<std::uint16_t>(random() & 0xBFFF);  // magnitudes below 2
        std::memcpy(bytes.get() + 1 + i * 2, &bits, 2);
        value = value_of(bits, exponent_bits);
      }
      truth.push_back(value);
    }
    for (std::size_t d = 0; d < dim; ++d) default_row[d] = static_cast<float>(d) + 0.5F;
  }

  double at(std::int64_t position, std::size_t d) const {
    if (position < 0 || static_cast<std::size_t>(position) >= view.count)
      return static_cast<double>(default_row[d]);
    return truth[static_cast<std::size_t>(position) * view.dim + d];
  }
  // Of keys that are their rows' positions; what is no position has no row.
  KeyIndex index() const {
    std::vector<std::uint64_t> keys(view.count);
    std::iota(keys.begin(), keys.end(), 0U);
    return KeyIndex({keys.data(), keys.size()});
  }
  PackedArray<float> fallback() const { return {default_row.data(), default_row.size()}; }

  std::unique_ptr<std::byte[]> bytes;
  RowsView view;
  std::vector<float> default_row;
  std::vector<double> truth;
};

constexpr float kUntouched = -12345.0F;

void lookup_case(RowType type, std::size_t count, std::size_t dim, std::size_t n, std::size_t gap) {
  const Case table(type, count, dim, count * 31 + dim);
  std::mt19937_64 random(n);
  std::vector<std::int64_t> positions;
  for (std::size_t i = 0; i < n; ++i)
    positions.push_back(static_cast<std::int64_t>(random() % (count + 2)) - 1);
  if (n > 2)
    positions[1] = std::numeric_limits<std::int64_t>::min();  // never read outside, whatever is asked
  if (n > 3) positions[2] = std::numeric_limits<std::int64_t>::max();
  std::vector<float> out(n * (dim + gap), kUntouched);
  const OutView target{out.data(), n, static_cast<std::ptrdiff_t>(dim + gap)};
  const KeyIndex index = table.index();
  const auto found = std::make_unique<bool[]>(n);
  const std::size_t unknown =
      lookup(index, table.view, {positions.data(), n}, table.fallback(), target, found.get());
  std::size_t expected = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const bool inside = positions[i] >= 0 && static_cast<std::size_t>(positions[i]) < count;
    expected += inside ? 0 : 1;
    CHECK(found[i] == inside);
    for (std::size_t d = 0; d < dim; ++d) CHECK(same(out[i * (dim + gap) + d], table.at(positions[i], d)));
    for (std::size_t d = dim; d < dim + gap; ++d) CHECK(out[i * (dim + gap) + d] == kUntouched);
  }
  CHECK(unknown == expected);
}

void pool_case(RowType type, Pooling pooling, std::size_t dim, std::size_t bags) {
  const Case table(type, 9, dim, bags + dim);
  std::mt19937_64 random(bags);
  std::vector<std::int64_t> offsets = {static_cast<std::int64_t>(bags % 3)};
  for (std::size_t b = 0; b < bags; ++b)
    offsets.push_back(offsets.back() + static_cast<std::int64_t>(random() % 40 / 7));
  const std::size_t items = static_cast<std::size_t>(offsets.back()) + bags % 2;
  std::vector<std::int64_t> positions;
  for (std::size_t i = 0; i < items; ++i) positions.push_back(static_cast<std::int64_t>(random() % 10) - 1);
  std::vector<float> out(bags * dim, kUntouched);
  const OutView target{out.data(), bags, static_cast<std::ptrdiff_t>(dim)};
  const KeyIndex index = table.index();
  const PackedArray<std::int64_t> cuts(offsets.data(), offsets.size());
  const std::size_t unknown =
      lookup_pool(index, table.view, {positions.data(), items}, cuts, pooling, table.fallback(), target);
  std::size_t expected = 0;
  for (std::size_t b = 0; b < bags; ++b) {
    for (std::size_t d = 0; d < dim; ++d) {
      double sum = 0;
      double size = 0;
      for (std::int64_t i = offsets[b]; i < offsets[b + 1]; ++i) {
        const std::int64_t position = positions[static_cast<std::size_t>(i)];
        if (d == 0 && position < 0) ++expected;
        sum += table.at(position, d);
        size += std::fabs(table.at(position, d));
      }
      const auto length = static_cast<double>(offsets[b + 1] - offsets[b]);
      const double divisor = pooling == Pooling::kMean && length > 0 ? length : 1.0;
      CHECK(std::fabs(static_cast<double>(out[b * dim + d]) - sum / divisor) <= 1e-6 * (size + 1e-30));
    }
  }
  CHECK(unknown == expected);
}

// Offsets a caller should have refused: nothing outside the arrays is read, every bag is written.
void pool_with_bad_offsets() {
  const Case table(RowType::kFloat32, 4, 3, 5);
  const std::vector<std::int64_t> positions = {0, 1, 2, 3, 99, -5};
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  const KeyIndex index = table.index();
  const std::vector<std::int64_t> cases[] = {
      {5, 2, 6, 1}, {kMin, kMax, kMin, kMax}, {0, 7, 7, 7}, {-1, 0, 3, 6}, {kMax, kMax, kMax, kMax}};
  for (const std::vector<std::int64_t>& offsets : cases) {
    std::vector<float> out(9, kUntouched);
    lookup_pool(index, table.view, {positions.data(), positions.size()}, {offsets.data(), 4}, Pooling::kSum,
                table.fallback(), OutView{out.data(), 3, 3});
    for (const float value : out) CHECK(value != kUntouched);
    std::ranges::fill(out, kUntouched);
    pool(table.view, {offsets.data(), 4}, Pooling::kMean, OutView{out.data(), 3, 3});
    for (const float value : out) CHECK(value != kUntouched);
  }
}

// What `lookup_pool` gives for the keys of all rows in order.
void pool_of_rows_in_order() {
  for (const RowType type : {RowType::kFloat32, RowType::kFloat16, RowType::kBfloat16}) {
    const Case table(type, 100, 5, 8);
    const KeyIndex index = table.index();
    std::vector<std::uint64_t> keys(100);
    std::iota(keys.begin(), keys.end(), 0U);
    const std::vector<std::int64_t> offsets = {3, 4, 4, 60, 99};
    for (const Pooling pooling : {Pooling::kMean, Pooling::kSum}) {
      std::vector<float> one(4 * 5), two(4 * 5);
      lookup_pool(index, table.view, {keys.data(), keys.size()}, {offsets.data(), 5}, pooling,
                  table.fallback(), OutView{one.data(), 4, 5});
      pool(table.view, {offsets.data(), 5}, pooling, OutView{two.data(), 4, 5});
      CHECK(std::memcmp(one.data(), two.data(), one.size() * sizeof(float)) == 0);
    }
  }
}

// Positions past the last row are never read.
void an_index_of_other_rows() {
  const KeyIndex index = Case(RowType::kFloat32, 9, 1, 1).index();
  const Case table(RowType::kFloat32, 3, 2, 1);
  const std::uint64_t keys[] = {2, 3, 8};
  float out[6] = {};
  CHECK(lookup(index, table.view, {keys, 3}, table.fallback(), {out, 3, 2}, nullptr) == 2);
  for (std::size_t i = 0; i < 6; ++i)
    CHECK(same(out[i], table.at(static_cast<std::int64_t>(keys[i / 2]), i % 2)));
}

}  // namespace

void rows() {
  every_half();
  for (const RowType type : {RowType::kFloat32, RowType::kFloat16, RowType::kBfloat16}) {
    for (const std::size_t n : {0U, 1U, 2U, 15U, 16U, 17U, 31U, 32U, 33U, 100U}) {
      lookup_case(type, 7, 3, n, 0);
      lookup_case(type, 50, 40, n, 9);
      lookup_case(type, 1, 300, n, 1);
      lookup_case(type, 0, 4, n, 2);
    }
    for (const Pooling pooling : {Pooling::kMean, Pooling::kSum}) {
      for (const std::size_t bags : {0U, 1U, 2U, 3U, 16U, 33U, 64U}) pool_case(type, pooling, 7, bags);
    }
  }
  pool_with_bad_offsets();
  pool_of_rows_in_order();
  an_index_of_other_rows();
}

}  // namespace pepnet::test
