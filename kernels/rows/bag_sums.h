// Sums or means of rows by bag, for items that come one by one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "rows/rows.h"

namespace pepnet {

enum class Pooling : std::uint8_t { kMean, kSum };

// Bag b has the items offsets[b] .. offsets[b + 1]. Offsets are held inside [0, items], each above the one
// before, as they are read, once each: no value of theirs can lead outside.
class BagSums {
 public:
  BagSums(PackedArray<std::int64_t> offsets, std::size_t items, Pooling pooling, OutView out,
          std::size_t dim) noexcept
      : offsets_(offsets), pooling_(pooling), out_(out), dim_(dim) {
    const auto limit = static_cast<std::int64_t>(items);
    if (out.count != 0) {
      end_ = std::clamp<std::int64_t>(offsets[0], 0, limit);
      last_ = std::clamp<std::int64_t>(offsets[out.count], end_, limit);
    }
    first_ = end_;
    open();
  }

  // The items of all bags.
  std::size_t first() const noexcept { return static_cast<std::size_t>(first_); }
  std::size_t last() const noexcept { return static_cast<std::size_t>(last_); }

  // Where the values of an item are added; null past the last bag. Items come in ascending order.
  float* target(std::size_t item) noexcept {
    while (bag_ < out_.count && static_cast<std::int64_t>(item) >= end_) close();
    return bag_ < out_.count ? out_.row(bag_) : nullptr;
  }
  // Calls `add(target)` for every item in turn: where a caller has nothing but bags, faster than one by one.
  template <class Add>
  void each_item(const Add& add) noexcept {
    for (; bag_ < out_.count; close()) {
      float* const target = out_.row(bag_);
      for (std::int64_t left = end_ - begin_; left > 0; --left) add(target);
    }
  }
  void finish() noexcept {
    while (bag_ < out_.count) close();
  }

 private:
  void open() noexcept {
    if (bag_ == out_.count) return;
    std::fill_n(out_.row(bag_), dim_, 0.0F);
    begin_ = end_;
    end_ = std::clamp(offsets_[bag_ + 1], begin_, last_);
  }
  void close() noexcept {
    const std::int64_t length = end_ - begin_;
    if (pooling_ == Pooling::kMean && length > 1) {
      const auto divisor = static_cast<float>(length);
      float* const target = out_.row(bag_);
      for (std::size_t d = 0; d < dim_; ++d) target[d] /= divisor;
    }
    ++bag_;
    open();
  }

  PackedArray<std::int64_t> offsets_;
  Pooling pooling_;
  OutView out_;
  std::size_t dim_, bag_ = 0;
  std::int64_t first_ = 0, begin_ = 0, end_ = 0, last_ = 0;
};

}  // namespace pepnet
