// A column of plain numbers → ids or dense values of a field, in one pass over it.
//
// Only what needs no second look: where a value is no id, or is not finite, the answer is false, and whoever
// asked says which one it is or makes something else of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pepnet {

inline constexpr unsigned kIdBits = 48;

struct NumberType;

// The type of numbers of a kind (i: integers, u: those without a sign, f: floats) and so many bytes; nullptr:
// there is none.
const NumberType* number_type(char kind, std::size_t bytes) noexcept;

// Numbers in native byte order, at any address, `stride` bytes apart.
struct NumberColumn {
  const std::byte* data;
  std::ptrdiff_t stride;
  const NumberType* type;
};

// What becomes of a dense value, in this order, in float64.
struct DenseRule {
  bool log1p = false;            // sign(x)·log(1 + |x|)
  double mean = 0.0, std = 1.0;  // (x - mean) / std
};

// Writes the integers as keys of `table` (id | table << 48). Returns whether all lie in [0, 2^48); of floats
// none does.
bool keys_of(const NumberColumn& column, std::size_t rows, std::uint16_t table, std::uint64_t* out) noexcept;

// Returns whether all values are finite, before and after.
bool dense_of(const NumberColumn& column, std::size_t rows, const DenseRule& rule, float* out) noexcept;

// sign(x)·log(1 + |x|) of each value, with an error below 1.5 units in the last place; finite values only.
// The same bits on every CPU, wherever a value lies in a column: a batch must not change a row's scores.
void signed_log1p(const double* values, std::size_t count, double* out) noexcept;

}  // namespace pepnet
