// The second-order term of a factorisation machine: ½((Σ v)² - Σ v²).
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class FmRows final : public RowOperation {
 public:
  FmRows(const network::Fm& does, const RowContext& context) : width_(does.width) {
    std::size_t next = 0;
    if (does.v) vectors_ = context.reads[next++].groups;
    if (!does.x) return;
    columns_ = context.reads[next].width;
    w_.assign(context.tensor(does.w), context.tensor(does.w) + columns_ * width_);
  }

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      float* const to = out.row(r);
      for (std::size_t begin = 0; begin < width_; begin += kPiece) {
        const std::size_t count = std::min(kPiece, width_ - begin);
        float sums[kPiece] = {}, squares[kPiece] = {};
        const auto add = [&](const float* vector, float factor) {
          for (std::size_t c = 0; c < count; ++c) {
            const float one = factor * vector[begin + c];
            sums[c] += one;
            squares[c] += one * one;
          }
        };
        for (std::size_t v = 0; v < vectors_; ++v) add(reads.front().row(r) + v * width_, 1.0F);
        const float* const x = reads.back().row(r);
        for (std::size_t j = 0; j < columns_; ++j) add(w_.data() + j * width_, x[j]);
        for (std::size_t c = 0; c < count; ++c) to[begin + c] = 0.5F * (sums[c] * sums[c] - squares[c]);
      }
    }
  }

 private:
  static constexpr std::size_t kPiece = 64;  // columns whose sums are in registers or the first-level cache
  const std::size_t width_;
  std::size_t vectors_ = 0, columns_ = 0;
  std::vector<float> w_;
};

}  // namespace

RowOperationPtr rows_of(const network::Fm& does, const RowContext& context) {
  return std::make_shared<FmRows>(does, context);
}

}  // namespace pepnet::engine
