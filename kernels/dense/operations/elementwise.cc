// x ⊙ y and x + y.
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

// x and y as wide as the result, or one column that stands for all.
template <class Combine>
class Elementwise final : public RowOperation {
 public:
  explicit Elementwise(const RowContext& context)
      : width_(context.width),
        x_(context.reads[0].width == 1 ? 0 : 1),
        y_(context.reads[1].width == 1 ? 0 : 1) {}

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      const float *const x = reads[0].row(r), *const y = reads[1].row(r);
      float* const to = out.row(r);
      if (x_ == 1 && y_ == 1) {
        for (std::size_t c = 0; c < width_; ++c) to[c] = Combine()(x[c], y[c]);
      } else {
        for (std::size_t c = 0; c < width_; ++c) to[c] = Combine()(x[c * x_], y[c * y_]);
      }
    }
  }

 private:
  const std::size_t width_, x_, y_;
};

}  // namespace

RowOperationPtr rows_of(const network::Multiply&, const RowContext& context) {
  return std::make_shared<Elementwise<std::multiplies<float>>>(context);
}

RowOperationPtr rows_of(const network::Add&, const RowContext& context) {
  return std::make_shared<Elementwise<std::plus<float>>>(context);
}

}  // namespace pepnet::engine
