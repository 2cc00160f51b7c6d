// The second-order term of a factorisation machine: ½((Σ v)² - Σ v²).
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class FmRows final : public RowOperation {
 public:
  FmRows(const network::Fm& does, const RowContext& context) : ops_(context.ops), width_(does.width) {
    std::size_t next = 0;
    if (does.v) vectors_ = context.reads[next++].groups;
    if (!does.x) return;
    // In panels, each with all columns of x one after the other.
    columns_ = context.reads[next].width;
    const float* const w = context.tensor(does.w);
    w_.resize(round_up(width_, kPanel) * columns_);
    for (std::size_t c = 0; c < width_; ++c) {
      float* const panel = w_.data() + c / kPanel * kPanel * columns_ + c % kPanel;
      for (std::size_t k = 0; k < columns_; ++k) panel[k * kPanel] = w[k * width_ + c];
    }
  }

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    alignas(64) float sums[kRows * 2 * kPanel];
    for (std::size_t first = 0; first < rows; first += kRows) {
      const std::size_t count = std::min(kRows, rows - first);
      for (std::size_t begin = 0; begin < width_; begin += kPanel) {
        std::fill_n(sums, count * 2 * kPanel, 0.0F);
        const std::size_t width = std::min(kPanel, width_ - begin);
        for (std::size_t r = 0; r < count && vectors_ > 0; ++r)
          add_vectors(reads.front().row(first + r) + begin, width, sums + r * 2 * kPanel);
        if (columns_ > 0) {
          const FloatRows& x = reads.back();
          const auto stride = static_cast<std::size_t>(count > 1 ? x.row(first + 1) - x.row(first) : 0);
          ops_.add_factors(x.row(first), stride, count, columns_, w_.data() + begin * columns_, sums);
        }
        for (std::size_t r = 0; r < count; ++r) {
          const float *const sum = sums + r * 2 * kPanel, *const squares = sum + kPanel;
          float* const to = out.row(first + r) + begin;
          for (std::size_t c = 0; c < width; ++c) to[c] = 0.5F * (sum[c] * sum[c] - squares[c]);
        }
      }
    }
  }

 private:
  static constexpr std::size_t kRows = 8;

  void add_vectors(const float* x, std::size_t width, float* sums) const noexcept {
    for (std::size_t v = 0; v < vectors_; ++v, x += width_) {
      for (std::size_t c = 0; c < width; ++c) {
        sums[c] += x[c];
        sums[kPanel + c] += x[c] * x[c];
      }
    }
  }

  const Ops& ops_;
  const std::size_t width_;
  std::size_t vectors_ = 0, columns_ = 0;
  std::vector<float> w_;
};

}  // namespace

RowOperationPtr rows_of(const network::Fm& does, const RowContext& context) {
  return std::make_shared<FmRows>(does, context);
}

}  // namespace pepnet::engine
