// Weights and biases in the layout that products read, one after the other in a buffer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/product.h"

namespace pepnet::cuda {

constexpr std::size_t kAlign = 256;  // bytes: of every buffer and every piece of one

inline std::size_t up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

// Throws std::length_error for a width that does not fit.
inline int whole(std::size_t value) {
  if (value > static_cast<std::size_t>(std::numeric_limits<int>::max() / 4))
    throw std::length_error("cuda: expected widths that fit an int, got " + std::to_string(value));
  return static_cast<int>(value);
}

// A width or depth as products take it.
inline int padded(std::size_t width) { return whole(up(width, kWhole)); }

// Rows [source, source + count) of a matrix, which are k and what follows in the packed one.
struct RowRun {
  std::size_t source, count;
  int k;
};

// A matrix whose rows are `stride` apart, and where its first column goes in the packed one.
struct Weights {
  const float* w;
  std::size_t width, stride;
  std::vector<RowRun> runs;
  int column;
};

class Packing {
 public:
  Packing(std::vector<std::byte>& bytes, Precision precision) : bytes_(bytes), precision_(precision) {}

  // Matrices, one after the other, each padded with zeros to [depth, columns], of the matrices that lie side
  // by side in it. Returns the offset in bytes.
  std::size_t matrices(const std::vector<std::vector<Weights>>& of, int depth, int columns) {
    return precision_ == Precision::bf16 ? pack<bf16>(of, depth, columns) : pack<float>(of, depth, columns);
  }

  // `groups` rows of `count` numbers, each padded with zeros to `columns`. Returns the offset in bytes.
  template <class Value>
  std::size_t rows(const Value* values, std::size_t count, std::size_t columns, std::size_t groups) {
    const std::size_t at = reserve(columns * groups * sizeof(Value));
    auto* const to = reinterpret_cast<Value*>(bytes_.data() + at);
    for (std::size_t g = 0; g < groups; ++g) std::copy_n(values + g * count, count, to + g * columns);
    return at;
  }

 private:
  // Room for so many bytes, all zero.
  std::size_t reserve(std::size_t bytes) {
    const std::size_t at = up(bytes_.size(), kAlign);
    bytes_.resize(at + bytes);
    return at;
  }

  template <class T>
  std::size_t pack(const std::vector<std::vector<Weights>>& of, int depth, int columns) {
    const std::size_t size = static_cast<std::size_t>(depth) * static_cast<std::size_t>(columns);
    const std::size_t at = reserve(size * of.size() * sizeof(T));
    for (std::size_t g = 0; g < of.size(); ++g) {
      T* const to = reinterpret_cast<T*>(bytes_.data() + at) + g * size;
      for (const Weights& one : of[g]) {
        for (const RowRun& run : one.runs) pack_rows(one, run, columns, to);
      }
    }
    return at;
  }

  template <class T>
  void pack_rows(const Weights& of, const RowRun& run, int columns, T* to) const {
    for (std::size_t r = 0; r < run.count; ++r) {
      const float* const from = of.w + (run.source + r) * of.stride;
      const int k = run.k + static_cast<int>(r);
      for (std::size_t c = 0; c < of.width; ++c)
        to[packed_at(precision_, k, of.column + static_cast<int>(c), columns)] = narrow<T>(from[c]);
    }
  }

  std::vector<std::byte>& bytes_;
  Precision precision_;
};

}  // namespace pepnet::cuda
