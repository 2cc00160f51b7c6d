// x ⊙ w + b, with one w and b for all rows and groups.
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class AffineRows final : public RowOperation {
 public:
  AffineRows(const network::Affine& does, const RowContext& context)
      : x_(context.reads[0].width == 1 ? 0 : 1),
        w_(context.tensor(does.w), context.tensor(does.w) + does.width) {
    if (!does.b.empty()) b_.assign(context.tensor(does.b), context.tensor(does.b) + does.width);
    b_.resize(does.width);
  }

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const x = reads[0].row(r);
      float* const to = out.row(r);
      for (std::size_t c = 0; c < w_.size(); ++c) to[c] = x[c * x_] * w_[c] + b_[c];
    }
  }

 private:
  const std::size_t x_;
  std::vector<float> w_, b_;
};

}  // namespace

RowOperationPtr rows_of(const network::Affine& does, const RowContext& context) {
  return std::make_shared<AffineRows>(does, context);
}

}  // namespace pepnet::engine
