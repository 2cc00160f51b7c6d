// One product with operands of its own, and what it must give, in double.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "dense/ops.h"
#include "dense/pack.h"

namespace pepnet::test {

// Exactly as many bytes as are asked for, at a cache line, zeroed: one read too far is one the sanitizer
// sees.
class Memory {
 public:
  explicit Memory(std::size_t bytes);
  char* data() const { return data_.get(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(static_cast<void*>(data_.get()));
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
};

// A weight matrix, a bias and activations as a table reads them; `exact` is what those stand for after
// rounding.
struct Factors {
  Factors(const Ops& ops, std::size_t rows, std::size_t in, std::size_t out, std::mt19937& random);

  Rows activations() const { return {bytes.data(), stride, scale.data(), zero.data()}; }
  double a(std::size_t r, std::size_t k) const { return left[r * in + k]; }
  double w(std::size_t k, std::size_t n) const { return right[k * out + n]; }

  std::size_t in, out;
  std::vector<float> x, weights, bias;
  Memory packed_memory;
  PackedMatrix packed;
  std::size_t stride;
  Memory bytes;
  std::vector<float> scale;
  std::vector<std::int32_t> zero;
  std::vector<double> left, right;
};

// An epilogue in all its parts.
struct Fused {
  Epilogue epilogue;
  Factor factor = Factor::none;
  network::Function function = network::Function::identity;
  bool plus = false;
};

struct OpCase {
  std::size_t rows, in, out;
  Fused fused;
  bool bf16_out = false, second = false, init = false;
  std::size_t k_begin = 0;
  std::size_t row_splits = 1, panel_splits = 1;  // calls that together make the product
};

struct OpResult {
  std::vector<float> out;         // [rows, panels * 16], widened when bf16_out
  std::vector<float> second;      // the same columns
  std::vector<double> want, tol;  // [rows, out]
};

// Runs the case with operands drawn from `seed`, and says what it must give unless `truth` is false.
OpResult run_case(const Ops& ops, const OpCase& c, unsigned seed, bool truth = true);

// An activation in double; its largest slope is at most `kSteepest`.
double activation_in_double(network::Function function, double x, double alpha, double slope);
inline constexpr double kSteepest = 1.9;

// Rounded to nearest, ties to even.
inline float as_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7FFFU + (bits >> 16 & 1U)) & 0xFFFF'0000U);
}

// The ops of a table that are no products (row_ops_test.cc).
void check_row_ops(const Ops& ops);

}  // namespace pepnet::test
