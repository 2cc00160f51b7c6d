// A weight matrix [in, out], laid out once at load for every instruction set alike.
//
//   panel   16 columns; columns beyond `out` are zero
//   step    1 (fp32), 2 (bf16) or 4 (int8) successive values of k for each of the 16 columns: one cache line
//
// A panel is its steps one after the other, k ascending, so that a product reads it as one stream of whole
// cache lines; in a step the values of one column are neighbours, as vdpbf16ps, vpdpbusd and the AMX tiles
// want them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/round_up.h"
#include "dense/isa.h"

namespace pepnet {

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
  const float* bias = nullptr;   // [panels * 16], zero beyond `out`
  const float* scale = nullptr;  // int8: [panels * 16], weight = scale * value
  const std::int32_t* sums =
      nullptr;  // int8: [panels * 16], sum of a column's values: what a zero point is worth
};

static constexpr std::size_t panel_bytes(const PackedMatrix& w) { return w.in / step_of(w.precision) * 64; }

}  // namespace pepnet
