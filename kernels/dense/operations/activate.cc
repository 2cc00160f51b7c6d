// Activations, γσ and heads: exponentials are those of the instruction set's kernels.
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class ActivateRows final : public RowOperation {
 public:
  ActivateRows(const network::Activation& activation, const RowContext& context)
      : ops_(context.ops), function_(activation.function), alpha_(activation.alpha), width_(context.width) {
    if (activation.slope.empty()) return;
    const float* const slope = context.tensor(activation.slope);
    slope_.assign(slope, slope + width_);
  }

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    const float* const slope = slope_.empty() ? nullptr : slope_.data();
    for (std::size_t r = 0; r < rows; ++r)
      ops_.activate(function_, reads[0].row(r), width_, alpha_, slope, out.row(r));
  }

 private:
  const Ops& ops_;
  const network::Function function_;
  const float alpha_;
  const std::size_t width_;
  std::vector<float> slope_;
};

class GateRows final : public RowOperation {
 public:
  GateRows(const network::Gate& does, const RowContext& context)
      : ops_(context.ops), gamma_(does.gamma), width_(context.width) {}

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      float* const to = out.row(r);
      ops_.activate(network::Function::sigmoid, reads[0].row(r), width_, 0.0F, nullptr, to);
      for (std::size_t c = 0; c < width_; ++c) to[c] *= gamma_;
    }
  }

 private:
  const Ops& ops_;
  const float gamma_;
  const std::size_t width_;
};

// Writes no more than its columns: the next row's scores, which another thread may write, follow at once.
class HeadRows final : public RowOperation {
 public:
  HeadRows(network::HeadKind kind, std::size_t width, const Ops& ops)
      : kind_(kind), width_(width), ops_(ops) {}

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const x = reads[0].row(r);
      float* const to = out.row(r);
      // What is taken off before e^x, and what it is divided by.
      float most = 0.0F, total = 1.0F;
      if (kind_ == network::HeadKind::softmax) {
        most = x[0];
        for (std::size_t c = 1; c < width_; ++c) most = larger(most, x[c]);
        total = 0.0F;
        each_piece(x, most, [&](const float* values, std::size_t, std::size_t count) {
          for (std::size_t c = 0; c < count; ++c) total += values[c];
        });
      }
      each_piece(x, most, [&](const float* values, std::size_t first, std::size_t count) {
        for (std::size_t c = 0; c < count; ++c) to[first + c] = values[c] / total;
      });
    }
  }

 private:
  static constexpr std::size_t kPiece = 64;

  template <class F>
  void each_piece(const float* x, float most, F f) const noexcept {
    alignas(64) float values[kPiece], shifted[kPiece];
    for (std::size_t first = 0; first < width_; first += kPiece) {
      const std::size_t count = std::min(kPiece, width_ - first);
      for (std::size_t c = 0; c < count; ++c) shifted[c] = x[first + c] - most;
      switch (kind_) {
        case network::HeadKind::identity:
          f(shifted, first, count);
          break;
        case network::HeadKind::probability:
          ops_.activate(network::Function::sigmoid, shifted, count, 0.0F, nullptr, values);
          f(values, first, count);
          break;
        default:
          ops_.exponential(shifted, count, values);
          f(values, first, count);
      }
    }
  }

  const network::HeadKind kind_;
  const std::size_t width_;
  const Ops& ops_;
};

}  // namespace

RowOperationPtr rows_of(const network::Activate& does, const RowContext& context) {
  return std::make_shared<ActivateRows>(does.activation, context);
}

RowOperationPtr rows_of(const network::Gate& does, const RowContext& context) {
  return std::make_shared<GateRows>(does, context);
}

RowOperationPtr head_operation(network::HeadKind kind, std::size_t width, const Ops& ops) {
  return std::make_shared<HeadRows>(kind, width, ops);
}

}  // namespace pepnet::engine
