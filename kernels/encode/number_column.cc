#include "encode/number_column.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace pepnet {

// What is done with numbers of one type.
struct NumberType {
  char kind;
  std::size_t bytes;
  bool (*keys)(const NumberColumn&, std::size_t rows, std::uint64_t high, std::uint64_t* out) noexcept;
  void (*widen)(const NumberColumn&, std::size_t begin, std::size_t rows, double* out) noexcept;
};

namespace {

template <class T>
T read(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Calls work(value, row) for `rows` numbers from row `begin` on.
template <class T, class Work>
void each(const NumberColumn& column, std::size_t begin, std::size_t rows, Work work) noexcept {
  const std::byte* from = column.data + static_cast<std::ptrdiff_t>(begin) * column.stride;
  if (column.stride == static_cast<std::ptrdiff_t>(sizeof(T))) {  // known when compiled: this one vectorises
    for (std::size_t row = 0; row < rows; ++row) work(read<T>(from + row * sizeof(T)), row);
  } else {
    for (std::size_t row = 0; row < rows; ++row)
      work(read<T>(from + static_cast<std::ptrdiff_t>(row) * column.stride), row);
  }
}

template <class T>
bool keys(const NumberColumn& column, std::size_t rows, std::uint64_t high, std::uint64_t* out) noexcept {
  if constexpr (std::is_floating_point_v<T>) {
    return false;
  } else {
    std::uint64_t seen = 0;
    each<T>(column, 0, rows, [&](T value, std::size_t row) noexcept {
      const auto id = static_cast<std::uint64_t>(value);  // of a negative one the highest bit is set
      seen |= id;
      out[row] = id | high;
    });
    return seen >> kIdBits == 0;
  }
}

template <class T>
void widen(const NumberColumn& column, std::size_t begin, std::size_t rows, double* out) noexcept {
  each<T>(column, begin, rows,
          [&](T value, std::size_t row) noexcept { out[row] = static_cast<double>(value); });
}

template <class T>
constexpr NumberType type_of() noexcept {
  return {std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u', sizeof(T), keys<T>, widen<T>};
}
constexpr NumberType kTypes[] = {type_of<std::int64_t>(), type_of<std::int32_t>(),  type_of<double>(),
                                 type_of<float>(),        type_of<std::uint64_t>(), type_of<std::uint32_t>(),
                                 type_of<std::int16_t>(), type_of<std::int8_t>(),   type_of<std::uint16_t>(),
                                 type_of<std::uint8_t>()};

// log(1 + x) for x ≥ 0. With u = 1 + x rounded, log(1 + x) = log(u) + (x - (u - 1)) / u up to second order,
// and u = 2^k·(1 + f) with 1 + f in [√½, √2). Of log(1 + f) = 2·artanh(s), s = f / (2 + f), the series is
// taken as f - (f²/2 - s·(f²/2 + z·p(z))), z = s², so that f itself is not rounded. No branch, so that it
// vectorises.
double log1p_of(double x) noexcept {
  constexpr std::uint64_t kHalfRoot = 0x3FE6'A09E'667F'3BCD;                  // √½
  constexpr double kHigh = 0x1.62e42fefa38p-1, kLow = 0x1.ef35793c76730p-45;  // ln 2; k·high is exact
  constexpr double kSeries[] = {2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13,
                                2.0 / 11, 2.0 / 9,  2.0 / 7,  2.0 / 5,  2.0 / 3};
  const double u = 1.0 + x;
  const double lost = (x - (u - 1.0)) / u;
  const auto bits = std::bit_cast<std::uint64_t>(u);
  const std::uint64_t k = (bits - kHalfRoot) >> 52;
  const double f = std::bit_cast<double>(bits - (k << 52)) - 1.0;
  // Integers below 2^52 are the low bits of a double above 2^52.
  const double exponent = std::bit_cast<double>(k | std::bit_cast<std::uint64_t>(0x1p52)) - 0x1p52;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double p = 0.0;
  for (const double term : kSeries) p = p * z + term;
  const double half = 0.5 * f * f;
  return exponent * kHigh + (f - (half - s * (half + z * p)) + (lost + exponent * kLow));
}

}  // namespace

const NumberType* number_type(char kind, std::size_t bytes) noexcept {
  for (const NumberType& type : kTypes)
    if (type.kind == kind && type.bytes == bytes) return &type;
  return nullptr;
}

bool keys_of(const NumberColumn& column, std::size_t rows, std::uint16_t table, std::uint64_t* out) noexcept {
  return column.type->keys(column, rows, std::uint64_t{table} << kIdBits, out);
}

bool dense_of(const NumberColumn& column, std::size_t rows, const DenseRule& rule, float* out) noexcept {
  constexpr std::size_t kBlock = 512;
  double values[kBlock];
  bool finite = true;
  for (std::size_t begin = 0; begin < rows; begin += kBlock) {
    const std::size_t count = std::min(kBlock, rows - begin);
    column.type->widen(column, begin, count, values);
    if (rule.log1p) signed_log1p(values, count, values);
    for (std::size_t row = 0; row < count; ++row) values[row] = (values[row] - rule.mean) / rule.std;
    unsigned good = 1;  // what was not finite has stayed so
    for (std::size_t row = 0; row < count; ++row) {
      const auto value = static_cast<float>(values[row]);
      good &= static_cast<unsigned>(std::fabs(value) <= std::numeric_limits<float>::max());
      out[begin + row] = value;
    }
    finite &= good != 0;
  }
  return finite;
}

void signed_log1p(const double* values, std::size_t count, double* out) noexcept {
  for (std::size_t i = 0; i < count; ++i) out[i] = std::copysign(log1p_of(std::fabs(values[i])), values[i]);
}

}  // namespace pepnet
