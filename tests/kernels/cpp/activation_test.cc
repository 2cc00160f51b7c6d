// Every activation of every table that runs here against double arithmetic, over all exponents and around
// zero: the largest errors are those of docs/kernels.md.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "dense/dispatch.h"
#include "op_case.h"

namespace pepnet::test {
namespace {

using network::Function;

constexpr double kMostUnits = 4;
// Sanitizers look for other things than errors: a sixteenth of the sweep is enough for them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint32_t kStep = 65'563;
constexpr int kDense = 1 << 13;
#else
constexpr std::uint32_t kStep = 4099;
constexpr int kDense = 1 << 17;
#endif
constexpr float kAlpha = 0.3F, kSlope = -0.4F;

// Both signs of every 4099th float32, of what is near the ends of formulas, of every second 2^-13 up to 32,
// zeros, and the smallest numbers.
std::vector<float> sweep() {
  std::vector<float> x{0.0F, -0.0F, 1e-45F, -1e-45F, 1e-38F, -1e-38F};
  for (const float around : {3.0F, 88.7F, 104.0F, 11.0F, 14.9F, 112.0F}) {
    for (float one = around * 0.999F; one < around * 1.001F; one = std::nextafter(one, 200.0F) * 1.00001F) {
      x.push_back(one);
      x.push_back(-one);
    }
  }
  const auto last = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::infinity());
  for (std::uint32_t bits = 0; bits < last; bits += kStep) {
    x.push_back(std::bit_cast<float>(bits));
    x.push_back(-x.back());
  }
  for (int i = 0; i < kDense; ++i) {
    x.push_back(static_cast<float>(i) * 32.0F / static_cast<float>(kDense));
    x.push_back(-x.back());
  }
  return x;
}

// The distance of float32's numbers at x.
double unit_at(double x) {
  const double size = std::max(std::fabs(x), static_cast<double>(std::numeric_limits<float>::min()));
  return std::exp2(std::floor(std::log2(size)) - 23);
}

// Errors are told in units in the last place where the result is a normal number, and in the smallest number
// that there is where it is less.
struct Errors {
  double units = 0, tiny = 0;
};

Errors errors_of(const Ops& ops, Function function, const std::vector<float>& x) {
  std::vector<float> out(x.size() + kPanel), slope(x.size(), kSlope);
  ops.activate(function, x.data(), x.size(), kAlpha, network::reads_slope(function) ? slope.data() : nullptr,
               out.data());
  Errors errors;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double want = activation_in_double(function, static_cast<double>(x[i]), static_cast<double>(kAlpha),
                                             static_cast<double>(kSlope));
    if (std::fabs(want) > static_cast<double>(std::numeric_limits<float>::max())) continue;
    const double off = std::fabs(static_cast<double>(out[i]) - want);
    if (std::fabs(want) >= static_cast<double>(std::numeric_limits<float>::min())) {
      errors.units = std::max(errors.units, off / unit_at(want));
    } else {
      errors.tiny =
          std::max(errors.tiny, off / static_cast<double>(std::numeric_limits<float>::denorm_min()));
    }
  }
  return errors;
}

void check_not_finite(const Ops& ops, Function function) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float x[] = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity};
  const float slope[] = {0.5F, 0.5F, 0.5F};
  float out[kPanel];
  ops.activate(function, x, 3, kAlpha, network::reads_slope(function) ? slope : nullptr, out);
  CHECK(std::isnan(out[0]));
  const bool bounded =
      function == Function::sigmoid || function == Function::tanh || function == Function::hard_sigmoid;
  CHECK(out[1] == (bounded ? 1.0F : kInfinity));
  const double below = activation_in_double(function, -1e6, static_cast<double>(kAlpha), 0.5);
  const bool unbounded =
      function == Function::identity || function == Function::leaky_relu || function == Function::prelu;
  CHECK(unbounded ? out[2] == -kInfinity : std::fabs(static_cast<double>(out[2]) - below) < 1e-6);
}

// The same bits wherever a value stands in a row, and nothing beyond whole registers is written.
void check_places(const Ops& ops, Function function, const std::vector<float>& x) {
  const bool sloped = network::reads_slope(function);
  const std::vector<float> slope(64, kSlope);
  std::vector<float> whole(64 + kPanel);
  ops.activate(function, x.data(), 64, kAlpha, sloped ? slope.data() : nullptr, whole.data());
  for (const std::size_t count : {1U, 7U, 8U, 15U, 16U, 17U, 31U, 63U}) {
    std::vector<float> some(round_up(count, kPanel) + 1, -7.0F);
    ops.activate(function, x.data() + 64 - count, count, kAlpha, sloped ? slope.data() : nullptr,
                 some.data());
    CHECK(std::memcmp(some.data(), whole.data() + 64 - count, count * sizeof(float)) == 0);
    CHECK(some.back() == -7.0F);
  }
}

}  // namespace

void activations() {
  const std::vector<float> x = sweep();
  std::vector<float> near(64);
  for (std::size_t i = 0; i < near.size(); ++i) near[i] = (static_cast<float>(i) - 31.5F) / 8;
  for (const Candidate& table : candidates()) {
    if (!table.usable || table.precision != Precision::fp32) continue;
    for (std::size_t i = 0; i < network::kFunctions; ++i) {
      const auto function = static_cast<Function>(i);
      const Errors errors = errors_of(*table.ops, function, x);
      std::printf(
          "activation %s %s: %.1f units in the last place, below normal numbers %.1f of the smallest\n",
          name_of(table.isa), network::name_of(function), errors.units, errors.tiny);
      CHECK(errors.units <= kMostUnits);
      check_not_finite(*table.ops, function);
      check_places(*table.ops, function, near);
    }
    std::vector<float> exponentials(x.size() + kPanel);
    table.ops->exponential(x.data(), x.size(), exponentials.data());
    double units = 0;
    for (std::size_t k = 0; k < x.size(); ++k) {
      const double want = std::exp(static_cast<double>(x[k]));
      if (want > 1.2e-38 && want < 3e38)
        units = std::max(units, std::fabs(static_cast<double>(exponentials[k]) - want) / unit_at(want));
    }
    CHECK(units <= 1.5);
  }
}

}  // namespace pepnet::test
