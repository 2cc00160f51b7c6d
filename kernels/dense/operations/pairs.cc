// The dot product of each pair of groups.
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class PairsRows final : public RowOperation {
 public:
  explicit PairsRows(const RowContext& context)
      : groups_(context.reads[0].groups), width_(context.reads[0].width) {}

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const x = reads[0].row(r);
      float* to = out.row(r);
      for (std::size_t i = 1; i < groups_; ++i) {
        const float* const first = x + i * width_;
        for (std::size_t j = 0; j < i; ++j) *to++ = dot(first, x + j * width_);
      }
    }
  }

 private:
  // In kLanes parts, as `sum_of` has them.
  float dot(const float* first, const float* second) const noexcept {
    constexpr std::size_t kLanes = 16;
    float lanes[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= width_; i += kLanes)
      for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += first[i + lane] * second[i + lane];
    for (std::size_t lane = 0; i < width_; ++i, ++lane) lanes[lane] += first[i] * second[i];
    return sum_of(lanes, kLanes, [](float value) { return value; });
  }

  const std::size_t groups_, width_;
};

}  // namespace

RowOperationPtr rows_of(const network::Pairs&, const RowContext& context) {
  return std::make_shared<PairsRows>(context);
}

}  // namespace pepnet::engine
