// What an instruction set implements: plain functions over plain memory, one table per (ISA, precision).
//
// Rules of every op. A result does not depend on how many rows or columns a call has: each output value is
// accumulated over k in ascending order, so that any split of a batch or of the columns gives the same bits.
// Each row is computed from that row alone. Nothing is allocated. Rows of activations are padded with zeros
// to as many values as the weights have (PackedMatrix::in), and buffers are readable and writeable up to
// there.
//
// Files compiled for an instruction set include this: nothing here may become a function that the linker
// shares.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/round_up.h"
#include "network/activation.h"
#include "network/epilogue.h"

namespace pepnet {

// Ascending: each one's CPUs can also run those before it.
enum class Isa : std::uint8_t { scalar, avx2, avx512, amx };

enum class Precision : std::uint8_t { fp32, bf16, int8 };
inline constexpr Precision kPrecisions[] = {Precision::fp32, Precision::bf16, Precision::int8};

const char* name_of(Isa isa);
const char* name_of(Precision precision);

// A weight matrix [in, out] is laid out once at load, for every instruction set alike.
//
//   panel   16 columns; columns beyond `out` are zero
//   step    1 (fp32), 2 (bf16) or 4 (int8) successive values of k for each of the 16 columns: one cache line
//
// A panel is its steps one after the other, k ascending, so that a product reads it as one stream of whole
// cache lines; in a step the values of one column are neighbours, as vdpbf16ps, vpdpbusd and the AMX tiles
// want them.
inline constexpr std::size_t kPanel = 16;

// Values of k in one step.
static constexpr std::size_t step_of(Precision precision) {
  return precision == Precision::fp32 ? 1 : precision == Precision::bf16 ? 2 : 4;
}

// k is padded with zeros to a multiple of this: 64 bytes of activations, the depth of one AMX tile.
static constexpr std::size_t k_multiple(Precision precision) { return 16 * step_of(precision); }

// Where a matrix lies in a model's buffer. Plain pointers: ISA files read it.
struct PackedMatrix {
  Precision precision = Precision::fp32;
  std::size_t in = 0;      // k as padded
  std::size_t out = 0;     // columns that mean something
  std::size_t panels = 0;  // round_up(out, 16) / 16
  const void* data = nullptr;
  const float* bias = nullptr;         // [panels * 16], zero beyond `out`
  const float* scale = nullptr;        // int8: [panels * 16], weight = scale * value
  const std::int32_t* sums = nullptr;  // int8: [panels * 16], sums of columns: what a zero point is worth
};

static constexpr std::size_t panel_bytes(const PackedMatrix& w) { return w.in / step_of(w.precision) * 64; }

// Formats of activations, which are not always those of the weights: only instructions that multiply bf16 or
// int8 directly ask for rounded activations; elsewhere narrow weights are widened and activations stay
// float32.
enum class Activation : std::uint8_t { f32, bf16, u8 };

static constexpr std::size_t bytes_of(Activation format) {
  return format == Activation::f32 ? 4 : format == Activation::bf16 ? 2 : 1;
}

using network::Epilogue;

// What the epilogue's result is multiplied with.
enum class Factor : std::uint8_t {
  none,
  rows,   // `mul`
  gated,  // gamma * sigmoid(u·w_g + c): the fused step; `gate` says what u, w_g and c are
};

// Rows of activations: row r begins at data + r * stride.
struct Rows {
  const void* data = nullptr;
  std::size_t stride = 0;        // bytes
  const float* scale = nullptr;  // u8 only: value = scale[r] * (byte - zero[r])
  const std::int32_t* zero = nullptr;
};

// One factor pair of a product.
struct Operands {
  Rows a;
  const PackedMatrix* w = nullptr;
  const float* init = nullptr;  // [panels * 16], not int8: where all rows' sums start; null: from zeros
  std::size_t k_begin = 0;      // values of k to skip, a multiple of k_multiple: their share is in `init`
};

// out[:, panels] = epilogue(a·w + b) * factor + plus for some rows and some panels of w.
struct Product {
  Operands main;
  Operands gate;  // with Factor::gated; its w has the same number of columns
  std::size_t rows = 0;
  std::size_t panel_begin = 0, panel_end = 0;
  Epilogue epilogue = Epilogue::linear;
  network::Function function = network::Function::identity;  // with Epilogue::function, as the next two
  float alpha = 0.0F;
  const float* slope = nullptr;  // [panels * 16], of functions that have one
  Factor factor = Factor::none;
  float gamma = 1.0F;
  const float* mul = nullptr;   // Factor::rows: row r at mul + r * mul_stride, no padding needed
  std::size_t mul_stride = 0;   // floats; 0 multiplies every row by the same
  const float* plus = nullptr;  // added at last, or null: row r at plus + r * plus_stride, no padding needed
  std::size_t plus_stride = 0;  // floats
  void* out = nullptr;          // panel p begins at column 16 * p; columns beyond w->out are written as zero
  std::size_t out_stride = 0;   // bytes
  bool out_bf16 = false;        // else float32
  float* out2 = nullptr;        // optional second copy in float32
  std::size_t out2_stride = 0;  // floats
};

// m = sum over e of softmax(z)_e * h_e for some rows of one task.
struct Mix {
  const float* z = nullptr;  // row r at z + r * z_stride: `experts` logits
  std::size_t z_stride = 0;
  const float* h = nullptr;  // expert e, row r at h + e * expert_stride + r * h_stride: `width` values
  std::size_t expert_stride = 0, h_stride = 0;
  std::size_t experts = 0, width = 0, rows = 0;
  float* out = nullptr;  // [rows, round_up(width, 16)], padding zero
  std::size_t out_stride = 0;
};

// How a row lies within limits of its columns.
struct Extent {
  float beyond;   // the most that a magnitude is over its limit, 0 at least; of numbers only
  float squares;  // sum of squares; NaN if a value is
};

struct Ops {
  Isa isa;
  Precision precision;
  Activation activation;  // what `product` reads
  const char* how;        // the instructions, for people: "vdpbf16ps"

  void (*product)(const Product&);
  // float32 [n] → activations of this table, zero-padded to `padded` values. f32 and bf16 only.
  void (*convert)(const float* x, std::size_t n, void* out, std::size_t padded);
  // float32 [n] → u8 [padded] with one scale and zero point (0 when no value is negative, else 128). u8 only.
  // A row with NaN or an infinity gets the scale NaN, and so does all that is computed from it.
  void (*quantize)(const float* x, std::size_t n, std::uint8_t* out, std::size_t padded, float* scale,
                   std::int32_t* zero);
  // out[i] = f(x[i]) for whole registers: up to 15 more values than n are written. slope: [n] or null.
  void (*activate)(network::Function function, const float* x, std::size_t n, float alpha, const float* slope,
                   float* out);
  // The same of e^x.
  void (*exponential)(const float* x, std::size_t n, float* out);
  // Adds to a panel of sums and one of sums of squares, which is 16 floats behind it, those of x_j·w_j over
  // columns j: row r of x at x + r * x_stride, w [columns, 16], the panels of row r at sums + r * 32.
  void (*add_factors)(const float* x, std::size_t x_stride, std::size_t rows, std::size_t columns,
                      const float* w, float* sums);
  void (*mix)(const Mix&);
  // out[r * out_stride] = sigmoid(h_r · w + b): the last layer, one target wide. Row r at h + r * h_stride.
  void (*score)(const float* h, std::size_t h_stride, const float* w, float b, std::size_t width,
                std::size_t rows, float* out, std::size_t out_stride);
  Extent (*extent)(const float* x, const float* limits, std::size_t n);
};

}  // namespace pepnet
