// AMX: tiles of bf16 or bytes, multiplied as matrices. What surrounds the products is AVX-512.
//
// Rows per call (for whoever cuts batches into blocks): a multiple of 32 keeps one tile configuration; 128 to
// 256 rows reuse each weight tile often enough. Measured on Sapphire Rapids with such a loop, per core: 3.2
// TFLOP/s of bf16 from L1, 2.8 with weights from L2, 0.9 with weights from L3 and one use each.
#define PEPNET_VECTOR "dense/isa/vec_avx512.h"

#include "dense/generic/rows.h"
#include "dense/generic/tiles.h"
#include "dense/isa/tables.h"

namespace pepnet {
namespace {

// In assembly, for tile numbers are part of the instruction: g++'s intrinsics take literals alone.
struct Instructions {
  template <std::size_t T>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
  }
  template <std::size_t T>
  static void load(const void* from, std::size_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
  }
  template <std::size_t T>
  static void store(void* to, std::size_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
  }
  static void configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }
  static void release() { _tile_release(); }
};

struct PairTiles : Instructions {
  template <std::size_t C, std::size_t A, std::size_t B>
  static void multiply_add() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
};
struct ByteTiles : Instructions {
  template <std::size_t C, std::size_t A, std::size_t B>
  static void multiply_add() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
};

}  // namespace

constinit const Ops kAmxBf16 = table(Isa::amx, Precision::bf16, Activation::bf16, "tdpbf16ps",
                                     product_with<TileKernel<PairTiles, false>>);
constinit const Ops kAmxInt8 =
    table(Isa::amx, Precision::int8, Activation::u8, "tdpbusd", product_with<TileKernel<ByteTiles, true>>);

}  // namespace pepnet
