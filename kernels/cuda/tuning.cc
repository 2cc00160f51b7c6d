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
template <class T>
std::vector<int> kind_of(const Program<T>& program, int device, int rows) {
  std::vector<int> kind{device, static_cast<int>(sizeof(T)), rows};
  for (const ProductsPlan* const launch : program.product_launches()) {
    kind.push_back(static_cast<int>(launch->products.size()));
    for (const ProductPlan& plan : launch->products) {
      for (const int number : {plan.main.depth, plan.main.a_group, plan.gate.depth, plan.groups, plan.columns,
                               static_cast<int>(plan.epilogue)})
        kind.push_back(number);
    }
  }
  return kind;
}

// Whether products can be made in a tile on a device whose blocks may have so much shared memory.
template <class T>
bool possible(Tile tile, bool gated, std::size_t shared_bytes) {
  return (!gated || can_be_gated(tile)) && shape_of<T>(tile).shared_bytes() <= shared_bytes;
}

// Whether the tile can be the fastest for so many rows.
bool hopeful(Tile tile, int rows) {
  return tile == Tile::few ? rows <= 128 : tile == Tile::middle || rows > 32;
}

template <class T>
TileChoice fastest(Stream& stream, ProductsLaunch<T> launch, int rows, std::size_t shared_bytes) {
  TileChoice choice{};
  for (const Tile tile : kTiles) {
    if (possible<T>(tile, launch.gated(), shared_bytes) && hopeful(tile, rows))
      choice.microseconds.emplace_back(tile, std::numeric_limits<float>::max());
  }
  // In turn, so that what happens meanwhile happens to all of them.
  for (int round = 0; round < kRounds; ++round) {
    for (auto& [tile, least] : choice.microseconds) {
      arrange(launch, tile);
      least = std::min(least, stream.microseconds(Launch<T>(launch), kRepeats));
    }
  }
  choice.tile = std::min_element(choice.microseconds.begin(), choice.microseconds.end(),
                                 [](const auto& a, const auto& b) { return a.second < b.second; })
                    ->first;
  return choice;
}

template <class T>
std::vector<TileChoice> fastest_tiles(const Program<T>& program, const std::byte* weights, int device,
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
  const std::vector<Launch<T>> launches = program.bind(at, any);
  for (const Launch<T>& launch : launches) {
    const auto* const products = std::get_if<ProductsLaunch<T>>(&launch);
    if (products == nullptr) continue;
    if (tiles.empty())
      for (float spent = 0; spent < kWarm; spent += kRepeats * stream.microseconds(launch, kRepeats))
        continue;
    tiles.push_back(fastest(stream, *products, rows, shared));
  }
  return tiles;
}

// The same for all launches, or the next smaller one where that cannot be.
template <class T>
std::vector<TileChoice> all_as(const Program<T>& program, int device, Tile given) {
  std::vector<TileChoice> tiles;
  const std::size_t shared = device_info(device).shared_bytes;
  for (const ProductsPlan* const launch : program.product_launches()) {
    Tile tile = given;
    while (tile != Tile::few && !possible<T>(tile, launch->gated(), shared))
      tile = static_cast<Tile>(static_cast<int>(tile) - 1);
    tiles.push_back({tile, {}});
  }
  return tiles;
}

std::mutex measuring;
std::map<std::vector<int>, std::vector<TileChoice>> measured;  // by kind

}  // namespace

template <class T>
TilesByRows tiles_for(const Program<T>& program, const std::byte* weights, int device,
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

template TilesByRows tiles_for(const Program<float>&, const std::byte*, int, std::span<const int>,
                               std::optional<Tile>);
template TilesByRows tiles_for(const Program<bf16>&, const std::byte*, int, std::span<const int>,
                               std::optional<Tile>);

}  // namespace pepnet::cuda
