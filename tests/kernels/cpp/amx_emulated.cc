// The tables of isa/amx.cc with emulated tiles, and one float for a register around them.
#define PEPNET_VECTOR "dense/isa/vec_scalar.h"

#include "amx_emulated.h"

#include "dense/generic/rows.h"
#include "dense/generic/tiles.h"
#include "tile_emulation.h"

namespace pepnet::test {

const Ops kEmulatedBf16 = table(Isa::amx, Precision::bf16, Activation::bf16, "tdpbf16ps, emulated",
                                product_with<TileKernel<EmulatedPairTiles, false>>);
const Ops kEmulatedInt8 = table(Isa::amx, Precision::int8, Activation::u8, "tdpbusd, emulated",
                                product_with<TileKernel<EmulatedByteTiles, true>>);

TileCounts tile_counts() { return {state.configurations, state.releases, state.configured}; }

}  // namespace pepnet::test
