#include "cuda/tuning.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <utility>

namespace pepnet::cuda {
namespace {

constexpr int kRepeats = 10, kRounds = 5;
constexpr float kWarm = 50'000;  // microseconds, until clocks are up

// What the times of a program's launches depend on.
std::vector<int> kind_of(const Program& program, int device, int rows) {
  std::vector<int> kind{device, static_cast<int>(program.precision()), rows};
  for (const ProductsPlan* const launch : program.product_launches()) {
    kind.push_back(static_cast<int>(launch->products.size()));
    for (const ProductPlan& plan : launch->products) {
      const Product& p = plan.product;
      for (const int number :
           {p.main.depth, p.main.a_group, p.gate.depth, p.groups, p.columns, static_cast<int>(p.epilogue),
            static_cast<int>(p.function), static_cast<int>(plan.times.at.buffer >= 0)})
        kind.push_back(number);
    }
  }
  return kind;
}

// Whether products can be made in a tile on a device whose blocks may have so much shared memory.
bool possible(Precision precision, Tile tile, bool gated, std::size_t shared_bytes) {
  return (!gated || can_be_gated(tile)) && shape_of(precision, tile).shared_bytes() <= shared_bytes;
}

// Whether the tile can be the fastest for so many rows.
bool hopeful(Tile tile, int rows) {
  return tile == Tile::few ? rows <= 128 : tile == Tile::middle || rows > 32;
}

TileChoice fastest(Stream& stream, ProductsLaunch launch, int rows, std::size_t shared_bytes) {
  TileChoice choice{};
  for (const Tile tile : kTiles) {
    if (possible(launch.precision, tile, launch.gated(), shared_bytes) && hopeful(tile, rows))
      choice.microseconds.emplace_back(tile, std::numeric_limits<float>::max());
  }
  // In turn, so that what happens meanwhile happens to all of them.
  for (int round = 0; round < kRounds; ++round) {
    for (auto& [tile, least] : choice.microseconds) {
      arrange(launch, tile);
      least = std::min(least, stream.microseconds(launch, kRepeats));
    }
  }
  choice.tile = std::min_element(choice.microseconds.begin(), choice.microseconds.end(),
                                 [](const auto& a, const auto& b) { return a.second < b.second; })
                    ->first;
  return choice;
}

std::vector<TileChoice> fastest_tiles(const Program& program, const std::byte* weights, int device,
                                      int rows) {
  Stream stream;
  const Allocation scratch(program.scratch_bytes(rows), Memory::device);
  stream.fill(scratch.data(), 0, scratch.size());
  Addresses at{};
  at.weights = weights;
  at.scratch = scratch.data();
  at.rows = at.live = rows;
  std::vector<TileChoice> tiles;
  const std::size_t shared = device_info(device).shared_bytes;
  const std::vector<TileChoice> any(program.product_launches().size(), TileChoice{Tile::few, {}});
  const std::vector<Launch> launches = program.bind(at, any);
  for (const Launch& launch : launches) {
    const auto* const products = std::get_if<ProductsLaunch>(&launch);
    if (products == nullptr) continue;
    if (tiles.empty())
      for (float spent = 0; spent < kWarm; spent += kRepeats * stream.microseconds(launch, kRepeats))
        continue;
    tiles.push_back(fastest(stream, *products, rows, shared));
  }
  return tiles;
}

// The same for all launches, or the next smaller one where that cannot be.
std::vector<TileChoice> all_as(const Program& program, int device, Tile given) {
  std::vector<TileChoice> tiles;
  const std::size_t shared = device_info(device).shared_bytes;
  for (const ProductsPlan* const launch : program.product_launches()) {
    Tile tile = given;
    while (tile != Tile::few && !possible(program.precision(), tile, launch->gated(), shared))
      tile = static_cast<Tile>(static_cast<int>(tile) - 1);
    tiles.push_back({tile, {}});
  }
  return tiles;
}

std::mutex measuring;
std::map<std::vector<int>, std::vector<TileChoice>> measured;  // by kind

}  // namespace

TilesByRows tiles_for(const Program& program, const std::byte* weights, int device,
                      std::span<const int> buckets, std::optional<Tile> given) {
  TilesByRows tiles;
  const std::lock_guard guard(measuring);  // what others do meanwhile would be measured too
  for (const int rows : buckets) {
    if (given) {
      tiles[rows] = all_as(program, device, *given);
      continue;
    }
    std::vector<TileChoice>& known = measured[kind_of(program, device, rows)];
    if (known.empty()) known = fastest_tiles(program, weights, device, rows);
    tiles[rows] = known;
  }
  return tiles;
}

}  // namespace pepnet::cuda
