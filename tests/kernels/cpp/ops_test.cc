// Every op of every table that runs here (ops), and of the tables with emulated tiles (tiles), against double
// arithmetic.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "amx_emulated.h"
#include "check.h"
#include "dense/dispatch.h"
#include "op_case.h"

namespace pepnet::test {
namespace {

constexpr Epilogue kEpilogues[] = {Epilogue::linear,     Epilogue::relu,       Epilogue::gate,
                                   Epilogue::gate_times, Epilogue::relu_times, Epilogue::relu_gated};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void check_case(const Ops& ops, const OpCase& c, unsigned seed) {
  const OpResult got = run_case(ops, c, seed);
  const std::size_t width = round_up(c.out, kPanel);
  for (std::size_t r = 0; r < c.rows; ++r) {
    for (std::size_t n = 0; n < width; ++n) {
      const auto value = static_cast<double>(got.out[r * width + n]);
      if (n >= c.out) {
        CHECK(value == 0.0);
      } else {
        CHECK(std::fabs(value - got.want[r * c.out + n]) <= got.tol[r * c.out + n]);
      }
    }
  }
  if (c.second && !c.bf16_out) CHECK(same_bits(got.out, got.second));
  OpCase split = c;
  split.row_splits = c.rows > 3 ? 3 : 1;
  split.panel_splits = c.out > 2 * kPanel ? 2 : 1;
  if (split.row_splits + split.panel_splits > 2)
    CHECK(same_bits(got.out, run_case(ops, split, seed, false).out));
}

void products(const Ops& ops) {
  struct Width {
    std::size_t in, out;
  };
  const Width widths[] = {{1, 1}, {3, 17}, {17, 3}, {31, 40}, {40, 65}, {65, 81}, {100, 31}, {129, 33}};
  std::size_t ran = 0;
  unsigned seed = 0;
  for (const std::size_t rows : {0U, 1U, 2U, 7U, 15U, 16U, 17U, 31U, 32U, 33U, 64U, 255U}) {
    for (const Epilogue epilogue : kEpilogues) {
      ++seed;
      if (rows > 100 && seed % 3 != 0) continue;
      const auto drawn = std::mt19937(seed)();
      const Width& width = widths[drawn % 8];
      OpCase c{rows, width.in, width.out, epilogue};
      c.bf16_out = drawn >> 8 & 1;
      c.second = drawn >> 9 & 1;
      c.init = ops.precision != Precision::int8 && (drawn >> 10 & 1);
      if (c.init && width.in > k_multiple(ops.precision)) c.k_begin = k_multiple(ops.precision);
      check_case(ops, c, seed);
      ++ran;
    }
  }
  check_case(ops, {33, 1216, 40, Epilogue::relu_gated}, ++seed);
  check_case(ops, {1000, 7, 17, Epilogue::gate}, ++seed);
  std::printf("ops %s %s (%s): %zu products\n", name_of(ops.isa), name_of(ops.precision), ops.how, ran + 2);
}

// One row that is not a number: its outputs are none either, all others keep their bits, padding stays zero.
void bad_row_stays_alone(const Ops& ops) {
  std::mt19937 random(7);
  for (const std::size_t rows : {2U, 17U, 40U}) {
    const std::size_t out = 37;
    const Factors f(ops, rows, 50, out, random);
    const std::size_t width = round_up(out, kPanel);
    std::vector<float> before(rows * width), after(rows * width);
    Product p;
    p.main = {f.activations(), &f.packed, nullptr, 0};
    p.rows = rows;
    p.panel_end = f.packed.panels;
    p.epilogue = Epilogue::relu;
    p.out = before.data();
    p.out_stride = width * sizeof(float);
    ops.product(p);
    const std::size_t bad = rows - 2;
    std::vector<float> scale = f.scale;
    p.main.a.scale = scale.data();
    if (ops.activation == Activation::u8) {
      scale[bad] = std::numeric_limits<float>::quiet_NaN();
    } else {
      const std::uint32_t nan = 0x7FC00000;
      char* const at = f.bytes.data() + bad * f.stride + 5 * bytes_of(ops.activation);
      std::memcpy(at, reinterpret_cast<const char*>(&nan) + (ops.activation == Activation::bf16 ? 2 : 0),
                  bytes_of(ops.activation));
    }
    p.out = after.data();
    ops.product(p);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t n = 0; n < width; ++n) {
        const float x = after[r * width + n];
        if (n >= out) {
          CHECK(x == 0.0F);
        } else if (r == bad) {
          CHECK(std::isnan(x));
        } else {
          CHECK(std::memcmp(&x, &before[r * width + n], sizeof(x)) == 0);
        }
      }
    }
  }
}

void mixes(const Ops& ops) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const std::size_t experts : {1U, 3U, 8U, 65U}) {
    for (const std::size_t width : {1U, 7U, 16U, 33U}) {
      const std::size_t rows = 5;
      const std::size_t padded = round_up(width, kPanel);
      std::vector<float> z(rows * experts), h(experts * rows * width), out(rows * padded, -1.0F);
      for (float& v : z) v = 3.0F * normal(random);
      for (float& v : h) v = normal(random);
      ops.mix({z.data(), experts, h.data(), rows * width, width, experts, width, rows, out.data(), padded});
      for (std::size_t r = 0; r < rows; ++r) {
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
}

void scores_and_sigmoids(const Ops& ops) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const std::size_t width : {1U, 7U, 16U, 33U}) {
    std::vector<float> h(3 * (width + 2)), w(width), out(3 * 2, -1.0F), plain(width);
    for (float& v : h) v = normal(random);
    for (float& v : w) v = normal(random);
    h.resize(3 * (width + 2) - 2);  // the last row ends where the memory does
    h.shrink_to_fit();
    ops.score(h.data(), width + 2, w.data(), 0.25F, width, 3, out.data(), 2);
    for (std::size_t r = 0; r < 3; ++r) {
      double x = 0.25;
      for (std::size_t c = 0; c < width; ++c) {
        x += static_cast<double>(h[r * (width + 2) + c]) * static_cast<double>(w[c]);
      }
      CHECK(std::fabs(static_cast<double>(out[2 * r]) - 1 / (1 + std::exp(-x))) <= 2e-6);
      CHECK(r == 2 || out[2 * r + 1] == -1.0F);
    }
    ops.sigmoid(w.data(), width, plain.data());
    for (std::size_t c = 0; c < width; ++c) {
      CHECK(std::fabs(static_cast<double>(plain[c]) - 1 / (1 + std::exp(-static_cast<double>(w[c])))) <=
            3e-7);
    }
  }
}

void roundings(const Ops& ops) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  for (const std::size_t n : {1U, 7U, 16U, 33U, 64U, 100U}) {
    std::vector<float> x(n);
    for (float& v : x) v = normal(random);
    const std::size_t bytes = bytes_of(ops.activation);
    const Memory out(round_up(n * bytes, 64));
    const std::size_t padded = round_up(n * bytes, 64) / bytes;
    if (ops.activation != Activation::u8) {
      ops.convert(x.data(), n, out.data(), padded);
      for (std::size_t i = 0; i < padded; ++i) {
        const double want = i < n ? static_cast<double>(x[i]) : 0.0;
        std::uint32_t bits = 0;
        std::memcpy(reinterpret_cast<char*>(&bits) + (bytes == 2 ? 2 : 0), out.data() + i * bytes, bytes);
        float got;
        std::memcpy(&got, &bits, sizeof(got));
        CHECK(std::fabs(static_cast<double>(got) - want) <= (bytes == 2 ? 0x1p-8 * std::fabs(want) : 0.0));
      }
      continue;
    }
    float scale = -1.0F;
    std::int32_t zero = -1;
    ops.quantize(x.data(), n, out.as<std::uint8_t>(), padded, &scale, &zero);
    for (std::size_t i = 0; i < padded; ++i) {
      const double got = static_cast<double>(scale) * (out.as<std::uint8_t>()[i] - zero);
      const double want = i < n ? static_cast<double>(x[i]) : 0.0;
      CHECK(std::fabs(got - want) <= 0.5001 * static_cast<double>(scale));
    }
  }
}

// A call configures the tiles once, and once more a group for a remainder of rows; and gives them back.
void tiles_are_configured_once(const Ops& ops) {
  struct {
    std::size_t rows, out, configurations;
  } const cases[] = {{0, 40, 0},  {1, 40, 1},  {16, 200, 1}, {17, 40, 1},
                     {32, 90, 1}, {64, 90, 1}, {33, 90, 4}};
  for (const auto& c : cases) {
    std::mt19937 random(1);
    const Factors f(ops, c.rows, 40, c.out, random);
    const std::size_t width = round_up(c.out, kPanel);
    std::vector<float> out(c.rows * width);
    Product p;
    p.main = {f.activations(), &f.packed, nullptr, 0};
    p.rows = c.rows;
    p.panel_end = f.packed.panels;
    p.out = out.data();
    p.out_stride = width * sizeof(float);
    const TileCounts before = tile_counts();
    ops.product(p);
    const TileCounts after = tile_counts();
    CHECK(after.configurations - before.configurations == c.configurations);
    CHECK(after.releases - before.releases == (c.rows > 0 ? 1 : 0));
    CHECK(!after.configured);
  }
}

void check_table(const Ops& ops) {
  products(ops);
  bad_row_stays_alone(ops);
  mixes(ops);
  scores_and_sigmoids(ops);
  roundings(ops);
}

}  // namespace

void ops() {
  for (const Candidate& candidate : candidates()) {
    if (candidate.usable) {
      check_table(*candidate.ops);
    } else {
      std::printf("ops %s %s: left out, %s\n", name_of(candidate.isa), name_of(candidate.precision),
                  candidate.why.c_str());
    }
  }
  for (const Precision precision : kPrecisions) {
    const Choice choice = choose(precision);
    CHECK(choice.ops->precision == precision);
    std::printf("chosen %s: %s\n", name_of(precision), name_of(choice.ops->isa));
  }
}

void tiles() {
  for (const Ops* const table : {&kEmulatedBf16, &kEmulatedInt8}) {
    check_table(*table);
    tiles_are_configured_once(*table);
  }
}

}  // namespace pepnet::test
