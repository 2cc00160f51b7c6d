#include <bit>

#include "arrays.h"

namespace pepnet::python {

namespace {

// Floats of one sign are in the order of their bits as integers, NaN above infinity: compilers make vectors
// of compares of integers, and none of compares of floats whose outcomes are joined.
bool all_probabilities(const float* scores, std::size_t count) {
  constexpr auto kOne = std::bit_cast<std::int32_t>(1.0F);
  constexpr auto kMinusZero = std::bit_cast<std::int32_t>(-0.0F);
  std::int32_t bad = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::int32_t>(scores[i]);
    bad |= static_cast<std::int32_t>(bits > kOne) |
           (static_cast<std::int32_t>(bits < 0) & static_cast<std::int32_t>(bits != kMinusZero));
  }
  return bad == 0;
}

std::optional<py::array_t<bool>> rows_without_probability(const py::array& scores) {
  const MatrixView matrix = matrix_of("scores", scores);
  if (matrix.stride == matrix.columns || matrix.rows <= 1) {
    if (all_probabilities(matrix.data, matrix.rows * matrix.columns)) return std::nullopt;
  }
  py::array_t<bool> mask(static_cast<py::ssize_t>(matrix.rows));
  bool* const bad = mask.mutable_data();
  bool any = false;
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    bad[r] = !all_probabilities(matrix.row(r), matrix.columns);
    any = any || bad[r];
  }
  if (!any) return std::nullopt;
  return mask;
}

}  // namespace

void bind_score_check(py::module_& module) {
  module.def("rows_without_probability", &rows_without_probability, "scores"_a,
             "float32 [B, T] → bool [B], true where a score is no number in [0, 1]; None where all are.");
}

}  // namespace pepnet::python
