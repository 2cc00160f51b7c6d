// Sum, mean or maximum over groups or columns.
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class ReduceGroups final : public RowOperation {
 public:
  ReduceGroups(const network::Reduce& does, const RowContext& context)
      : by_(does.by), groups_(context.reads[0].groups), width_(context.width) {}

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const x = reads[0].row(r);
      float* const to = out.row(r);
      std::copy_n(x, width_, to);
      for (std::size_t g = 1; g < groups_; ++g) {
        const float* const group = x + g * width_;
        for (std::size_t c = 0; c < width_; ++c)
          to[c] = by_ == network::Reduction::max ? larger(to[c], group[c]) : to[c] + group[c];
      }
      if (by_ != network::Reduction::mean) continue;
      for (std::size_t c = 0; c < width_; ++c) to[c] /= static_cast<float>(groups_);
    }
  }

 private:
  const network::Reduction by_;
  const std::size_t groups_, width_;
};

class ReduceColumns final : public RowOperation {
 public:
  ReduceColumns(const network::Reduce& does, const RowContext& context)
      : by_(does.by), width_(context.reads[0].width) {}

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const x = reads[0].row(r);
      if (by_ == network::Reduction::max) {
        float most = x[0];
        for (std::size_t c = 1; c < width_; ++c) most = larger(most, x[c]);
        *out.row(r) = most;
      } else {
        const float sum = sum_of(x, width_, [](float value) { return value; });
        *out.row(r) = by_ == network::Reduction::mean ? sum / static_cast<float>(width_) : sum;
      }
    }
  }

 private:
  const network::Reduction by_;
  const std::size_t width_;
};

}  // namespace

RowOperationPtr rows_of(const network::Reduce& does, const RowContext& context) {
  if (does.over_groups) return std::make_shared<ReduceGroups>(does, context);
  return std::make_shared<ReduceColumns>(does, context);
}

}  // namespace pepnet::engine
