// Layer normalisation: the variance is that of the differences from the mean, which no large mean cancels.
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class LayerNormRows final : public RowOperation {
 public:
  LayerNormRows(const network::LayerNorm& does, const RowContext& context)
      : eps_(does.eps), w_(context.width, 1.0F), b_(context.width, 0.0F) {
    if (!does.w.empty()) w_.assign(context.tensor(does.w), context.tensor(does.w) + context.width);
    if (!does.b.empty()) b_.assign(context.tensor(does.b), context.tensor(does.b) + context.width);
  }

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    const std::size_t width = w_.size();
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const x = reads[0].row(r);
      float* const to = out.row(r);
      const float mean = sum_of(x, width, [](float value) { return value; }) / static_cast<float>(width);
      const auto off = [mean](float value) { return (value - mean) * (value - mean); };
      const float variance = sum_of(x, width, off) / static_cast<float>(width);
      const float scale = 1.0F / std::sqrt(variance + eps_);
      for (std::size_t c = 0; c < width; ++c) to[c] = (x[c] - mean) * scale * w_[c] + b_[c];
    }
  }

 private:
  const float eps_;
  std::vector<float> w_, b_;
};

}  // namespace

RowOperationPtr rows_of(const network::LayerNorm& does, const RowContext& context) {
  return std::make_shared<LayerNormRows>(does, context);
}

}  // namespace pepnet::engine
