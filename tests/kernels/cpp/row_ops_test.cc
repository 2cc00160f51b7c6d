// The ops that are no products, against double arithmetic: mix, scores, sigmoid, and rounding of activations.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "op_case.h"
#include "rows/half.h"

namespace pepnet::test {
namespace {

struct MixShape {
  std::size_t experts, rows, width;
};

// A row has the same bits alone. Of no rows nothing is written.
void mixes(const Ops& ops) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const auto [experts, rows, width] :
       {MixShape{1, 1, 1}, MixShape{2, 3, 17}, MixShape{8, 33, 40}, MixShape{15, 2, 16}, MixShape{17, 5, 65},
        MixShape{64, 3, 7}, MixShape{130, 4, 31}, MixShape{3, 0, 5}}) {
    const std::size_t padded = round_up(width, kPanel);
    std::vector<float> z(rows * experts), h(experts * rows * width), out((rows + 1) * padded, -1.0F);
    std::vector<float> alone(padded);
    for (float& v : z) v = 3.0F * normal(random);
    for (float& v : h) v = normal(random);
    ops.mix({z.data(), experts, h.data(), rows * width, width, experts, width, rows, out.data(), padded});
    for (std::size_t c = 0; c < padded; ++c) CHECK(out[rows * padded + c] == -1.0F);
    for (std::size_t r = 0; r < rows; ++r) {
      ops.mix({&z[r * experts], experts, &h[r * width], rows * width, width, experts, width, 1, alone.data(),
               padded});
      CHECK(std::memcmp(alone.data(), &out[r * padded], padded * sizeof(float)) == 0);
      double total = 0;
      std::vector<double> want(width), size(width);
      for (std::size_t e = 0; e < experts; ++e) {
        const double share = std::exp(static_cast<double>(z[r * experts + e]));
        total += share;
        for (std::size_t c = 0; c < width; ++c) {
          want[c] += share * static_cast<double>(h[(e * rows + r) * width + c]);
          size[c] += share * std::fabs(static_cast<double>(h[(e * rows + r) * width + c]));
        }
      }
      for (std::size_t c = 0; c < padded; ++c) {
        const auto got = static_cast<double>(out[r * padded + c]);
        if (c >= width) {
          CHECK(got == 0.0);
        } else {
          CHECK(std::fabs(got - want[c] / total) <=
                (static_cast<double>(experts) + 8) * 0x1p-23 * size[c] / total);
        }
      }
    }
  }
}

// A share that underflows is zero, equal logits of any size share equally, and a NaN stays in its row, whose
// bits are those it has alone.
void mixes_of_extremes(const Ops& ops) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float z[] = {500.0F, -500.0F, 3e38F, 3e38F, nan, 0.0F, -200.0F, -200.0F},
              h[] = {1, 1, 1, 1, 3, 3, 3, 3};
  std::vector<float> out(4 * kPanel), alone(kPanel);
  ops.mix({z, 2, h, 4, 1, 2, 1, 4, out.data(), kPanel});
  CHECK(out[0] == 1.0F && out[kPanel] == 2.0F && std::isnan(out[2 * kPanel]) && out[3 * kPanel] == 2.0F);
  for (std::size_t r = 0; r < 4; ++r) {
    ops.mix({z + 2 * r, 2, h + r, 4, 1, 2, 1, 1, alone.data(), kPanel});
    CHECK(std::memcmp(alone.data(), &out[r * kPanel], sizeof(float)) == 0);
  }
}

// The scores of rows one wide, with a weight of one.
void sigmoid(const Ops& ops, const float* x, std::size_t n, float* out) {
  const float one = 1.0F;
  ops.score(x, 1, &one, 0.0F, 1, n, out, 1);
}

// Over all bit patterns, and closely where the function is neither 0 nor 1.
void sigmoids(const Ops& ops) {
  std::vector<float> x;
  for (std::uint64_t bits = 331; bits < std::uint64_t{1} << 32; bits += 4096)
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  for (int i = 0; i < 1 << 20; ++i) x.push_back(-90.0F + static_cast<float>(i) * (110.0F / (1 << 20)));
  std::vector<float> got(x.size()), part(3);
  sigmoid(ops, x.data(), x.size(), got.data());
  double worst = 0, worst_ulp = 0, worst_tiny = 0;
  bool nan_stays = true;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      nan_stays = nan_stays && std::isnan(got[i]);
      continue;
    }
    const double want = 1 / (1 + std::exp(-static_cast<double>(x[i])));
    const double error = std::fabs(static_cast<double>(got[i]) - want);
    const auto nearest = static_cast<float>(want);
    worst = std::max(worst, error);
    if (x[i] > -88.7F) {
      worst_ulp = std::max(worst_ulp, error / static_cast<double>(std::nextafter(nearest, 2.0F) - nearest));
    } else {
      worst_tiny = std::max(worst_tiny, error);
    }
  }
  CHECK(nan_stays && worst <= 9e-8 && worst_ulp <= 2.5 && worst_tiny <= 3e-39);
  const float infinity = std::numeric_limits<float>::infinity(), ends[] = {infinity, -infinity, 0.0F};
  sigmoid(ops, ends, 3, part.data());
  CHECK(part[0] == 1.0F && part[1] == 0.0F && part[2] == 0.5F);
}

// Where a value stands in a batch, and how many stand beside it, does not change its bits.
void sigmoids_at_any_place(const Ops& ops) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> x(100), whole(100), part(100);
  for (float& v : x) v = normal(random);
  sigmoid(ops, x.data(), x.size(), whole.data());
  for (const std::size_t n : {0U, 1U, 5U, 8U, 15U, 16U, 17U, 31U, 33U, 99U}) {
    sigmoid(ops, x.data(), n, part.data());
    sigmoid(ops, x.data() + n, x.size() - n, part.data() + n);
    CHECK(std::memcmp(part.data(), whole.data(), x.size() * sizeof(float)) == 0);
  }
}

// Rows and scores may have gaps, the last row ends where the memory does, and NaN stays in its row.
void scores(const Ops& ops) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const std::size_t rows : {0U, 1U, 2U, 7U, 16U, 33U, 1000U}) {
    for (const std::size_t width : {1U, 3U, 7U, 16U, 17U, 31U, 33U, 64U, 129U}) {
      std::vector<float> h(rows == 0 ? 0 : rows * (width + 2) - 2), w(width);
      std::vector<float> out(2 * rows + 1, -1.0F), again(2 * rows + 1, -1.0F);
      for (float& v : h) v = normal(random);
      for (float& v : w) v = normal(random) / std::sqrt(static_cast<float>(width));
      ops.score(h.data(), width + 2, w.data(), 0.25F, width, rows, out.data(), 2);
      for (std::size_t r = 0; r < rows; ++r) {
        double x = 0.25, size = 0.25;
        for (std::size_t c = 0; c < width; ++c) {
          const auto product = static_cast<double>(h[r * (width + 2) + c]) * static_cast<double>(w[c]);
          x += product;
          size += std::fabs(product);
        }
        const double tolerance = 0x1p-24 * ((static_cast<double>(width) + 4) * size / 4 + 4);
        CHECK(std::fabs(static_cast<double>(out[2 * r]) - 1 / (1 + std::exp(-x))) <= tolerance);
        CHECK(out[2 * r + 1] == -1.0F);
      }
      CHECK(out[2 * rows] == -1.0F);
      if (rows == 0) continue;
      const std::size_t bad = rows / 2;
      h[bad * (width + 2) + width - 1] = std::numeric_limits<float>::quiet_NaN();
      ops.score(h.data(), width + 2, w.data(), 0.25F, width, rows, again.data(), 2);
      CHECK(std::isnan(again[2 * bad]));
      again[2 * bad] = out[2 * bad];
      CHECK(again == out);
    }
  }
}

// bf16 to nearest even; float32 untouched; u8 within half a step, with a zero point only where it is needed.
void roundings(const Ops& ops) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  for (const std::size_t n : {1U, 3U, 7U, 16U, 33U, 64U, 100U, 1217U}) {
    for (int kind = 0; kind < 6; ++kind) {
      std::vector<float> x(n);
      for (std::size_t i = 0; i < n; ++i) {
        const float drawn = normal(random) * std::pow(10.0F, static_cast<float>(random() % 24) - 12.0F);
        const auto tie = std::bit_cast<float>(0x3F80'8000U + 0x1'0000U * static_cast<std::uint32_t>(i));
        x[i] = kind == 0   ? 0.0F
               : kind == 1 ? std::fabs(drawn)
               : kind == 2 ? -std::fabs(drawn)
               : kind == 3 ? tie
                           : drawn;
      }
      const std::size_t bytes = bytes_of(ops.activation);
      const Memory out(round_up(n * bytes, 64));
      const std::size_t padded = round_up(n * bytes, 64) / bytes;
      if (ops.activation != Activation::u8) {
        ops.convert(x.data(), n, out.data(), padded);
        for (std::size_t i = 0; i < padded; ++i) {
          const float want = i >= n ? 0.0F : bytes == 2 ? as_bf16(x[i]) : x[i];
          const float got = bytes == 2 ? float_from_bfloat16(out.as<std::uint16_t>()[i]) : out.as<float>()[i];
          CHECK(got == want);
        }
        continue;
      }
      float scale = -1.0F;
      std::int32_t zero = -1;
      ops.quantize(x.data(), n, out.as<std::uint8_t>(), padded, &scale, &zero);
      const bool negative = std::any_of(x.begin(), x.end(), [](float v) { return v < 0; });
      CHECK(zero == (negative ? 128 : 0));
      float largest = 0;
      for (const float v : x) largest = std::max(largest, std::fabs(v));
      CHECK(std::fabs(scale - largest / (negative ? 127.0F : 255.0F)) <= 1e-6F * scale);
      for (std::size_t i = 0; i < padded; ++i) {
        const double got = static_cast<double>(scale) * (out.as<std::uint8_t>()[i] - zero);
        const double want = i < n ? static_cast<double>(x[i]) : 0.0;
        CHECK(std::fabs(got - want) <= 0.50001 * static_cast<double>(scale) + 1e-38);
      }
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        x[n / 2] = bad;
        ops.quantize(x.data(), n, out.as<std::uint8_t>(), padded, &scale, &zero);
        CHECK(std::isnan(scale));
      }
    }
  }
}

}  // namespace

void check_row_ops(const Ops& ops) {
  mixes(ops);
  mixes_of_extremes(ops);
  if (ops.precision == Precision::fp32) sigmoids(ops);
  sigmoids_at_any_place(ops);
  scores(ops);
  roundings(ops);
}

}  // namespace pepnet::test
