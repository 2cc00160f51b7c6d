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

// Rows of a weight matrix [·, stride] that stand in a packed one from row `to` on.
struct RowRun {
  std::size_t from, count, to;
};

template <class T>
class Packing {
 public:
  static constexpr std::size_t kNew = std::numeric_limits<std::size_t>::max();

  explicit Packing(std::vector<std::byte>& bytes) : bytes_(bytes) {}

  // Room for so many values, all zero bits. Returns the offset in bytes.
  template <class Value>
  std::size_t reserve(std::size_t count) {
    const std::size_t at = up(bytes_.size(), kAlign);
    bytes_.resize(at + count * sizeof(Value));
    return at;
  }

  // Weights of `groups` matrices, `group_from` elements apart, each [·, stride] of which `columns` are taken;
  // packed one after the other. Returns the offset in bytes.
  std::size_t pack(const float* w, std::size_t stride, std::size_t columns, const std::vector<RowRun>& rows,
                   int depth, int width, std::size_t groups, std::size_t group_from, int at_column = 0,
                   std::size_t into = kNew) {
    const std::size_t size = static_cast<std::size_t>(depth) * static_cast<std::size_t>(width);
    const std::size_t at = into == kNew ? reserve<T>(size * groups) : into;
    for (std::size_t g = 0; g < groups; ++g) {
      T* const to = reinterpret_cast<T*>(bytes_.data() + at) + g * size;
      for (const RowRun& run : rows) {
        for (std::size_t r = 0; r < run.count; ++r) {
          const float* const from = w + g * group_from + (run.from + r) * stride;
          for (std::size_t c = 0; c < columns; ++c)
            to[packed_at<T>(static_cast<int>(run.to + r), at_column + static_cast<int>(c), width)] =
                narrow<T>(from[c]);
        }
      }
    }
    return at;
  }

  // Of each of `groups` matrices the bias [columns], one after the other.
  std::size_t bias(const float* b, std::size_t columns, int width, std::size_t groups) {
    const std::size_t at = reserve<float>(static_cast<std::size_t>(width) * groups);
    auto* const to = reinterpret_cast<float*>(bytes_.data() + at);
    for (std::size_t g = 0; g < groups; ++g)
      std::copy_n(b + g * columns, columns, to + g * static_cast<std::size_t>(width));
    return at;
  }

 private:
  std::vector<std::byte>& bytes_;
};

}  // namespace pepnet::cuda
