// AMX: tiles of bf16 or bytes, multiplied as matrices. What surrounds the products is AVX-512.
#define PEPNET_VECTOR "dense/isa/vec_avx512.h"

#include "dense/generic/rows.h"
#include "dense/generic/tiles.h"
#include "dense/isa/tables.h"

namespace pepnet {
namespace {

// Tile numbers are part of the instruction, and in g++ part of its text: each is spelled out once.
struct Instructions {
  template <std::size_t T>
  static void zero();
  template <std::size_t T>
  static void load(const void* from, std::size_t stride);
  template <std::size_t T>
  static void store(void* to, std::size_t stride);

  static void configure(const TileConfig& config) {
    // g++ 12 takes it that only eight bytes of the configuration are read, and might store no more.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  static void release() { _tile_release(); }
};

#define PEPNET_TILE(T)                                                                       \
  template <>                                                                                \
  [[maybe_unused]] inline void Instructions::zero<T>() {                                     \
    _tile_zero(T);                                                                           \
  }                                                                                          \
  template <>                                                                                \
  [[maybe_unused]] inline void Instructions::load<T>(const void* from, std::size_t stride) { \
    _tile_loadd(T, from, static_cast<long>(stride));                                         \
  }                                                                                          \
  template <>                                                                                \
  [[maybe_unused]] inline void Instructions::store<T>(void* to, std::size_t stride) {        \
    _tile_stored(T, to, static_cast<long>(stride));                                          \
  }
PEPNET_TILE(0)
PEPNET_TILE(1)
PEPNET_TILE(2)
PEPNET_TILE(3)
PEPNET_TILE(4)
PEPNET_TILE(5)
PEPNET_TILE(6)
PEPNET_TILE(7)
#undef PEPNET_TILE

struct PairTiles : Instructions {
  template <std::size_t C, std::size_t A, std::size_t B>
  static void multiply_add();
};
struct ByteTiles : Instructions {
  template <std::size_t C, std::size_t A, std::size_t B>
  static void multiply_add();
};

#define PEPNET_TILES(C, A, B)                      \
  template <>                                      \
  inline void PairTiles::multiply_add<C, A, B>() { \
    _tile_dpbf16ps(C, A, B);                       \
  }                                                \
  template <>                                      \
  inline void ByteTiles::multiply_add<C, A, B>() { \
    _tile_dpbusd(C, A, B);                         \
  }
PEPNET_TILES(0, 4, 6)
PEPNET_TILES(1, 4, 7)
PEPNET_TILES(2, 5, 6)
PEPNET_TILES(3, 5, 7)
PEPNET_TILES(0, 4, 5)
PEPNET_TILES(1, 4, 6)
PEPNET_TILES(2, 4, 7)
PEPNET_TILES(3, 4, 5)
#undef PEPNET_TILES

}  // namespace

constinit const Ops kAmxBf16 = table(Isa::amx, Precision::bf16, Activation::bf16, "tdpbf16ps",
                                     product_with<TileKernel<PairTiles, false>>);
constinit const Ops kAmxInt8 =
    table(Isa::amx, Precision::int8, Activation::u8, "tdpbusd", product_with<TileKernel<ByteTiles, true>>);

}  // namespace pepnet
