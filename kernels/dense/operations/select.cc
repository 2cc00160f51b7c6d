// The group whose number stands in a column of an input.
#include "dense/operations/rows.h"

namespace pepnet::engine {
namespace {

class SelectRows final : public RowOperation {
 public:
  SelectRows(const network::Select& does, const RowContext& context)
      : column_(does.column), groups_(static_cast<float>(context.reads[0].groups)), width_(context.width) {}

  void run(std::span<const FloatRows> reads, const FloatRowsOut& out,
           std::size_t rows) const noexcept override {
    for (std::size_t r = 0; r < rows; ++r) {
      const float number = reads[1].row(r)[column_];
      if (number >= 0.0F && number < groups_) {
        std::copy_n(reads[0].row(r) + static_cast<std::size_t>(number) * width_, width_, out.row(r));
      } else {
        std::fill_n(out.row(r), width_, std::numeric_limits<float>::quiet_NaN());
      }
    }
  }

 private:
  const std::size_t column_;
  const float groups_;
  const std::size_t width_;
};

}  // namespace

RowOperationPtr rows_of(const network::Select& does, const RowContext& context) {
  return std::make_shared<SelectRows>(does, context);
}

}  // namespace pepnet::engine
