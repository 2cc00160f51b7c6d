#include "cuda/tuning.h"

#include <algorithm>
#include <mutex>
#include <utility>

namespace pepnet::cuda {
namespace {

constexpr int kRepeats = 10;

// What the times of a program's launches depend on.
template <class T>
std::vector<int> kind_of(const Program<T>& program, int device, int rows) {
  std::vector<int> kind{device, static_cast<int>(sizeof(T)), rows};
  for (const StepPlan& step : program.steps()) {
    const auto* const launch = std::get_if<ProductsPlan>(&step);
    if (launch == nullptr) continue;
    kind.push_back(static_cast<int>(launch->products.size()));
    for (const ProductPlan& plan : launch->products) {
      for (const int number : {plan.main.depth, plan.main.a_group, plan.gate.depth, plan.groups, plan.columns,
                               static_cast<int>(plan.epilogue)})
        kind.push_back(number);
    }
  }
  return kind;
}

// Tiles that cannot be, or are not worth a try for so many rows.
template <class T>
bool hopeless(Tile tile, bool gated, int rows, std::size_t shared_bytes) {
  if (gated && !can_be_gated(tile)) return true;
  if (shape_of<T>(tile).shared_bytes() > shared_bytes) return true;
  return tile == Tile::few ? rows > 128 : tile != Tile::middle && rows <= 32;
}

template <class T>
TileChoice fastest(Stream& stream, ProductsLaunch<T> launch, int rows, std::size_t shared_bytes) {
  TileChoice choice{};
  for (const Tile tile : kTiles) {
    if (hopeless<T>(tile, launch.gated(), rows, shared_bytes)) continue;
    arrange(launch, tile);
    choice.microseconds.emplace_back(tile, stream.microseconds(Launch<T>(launch), kRepeats));
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
  const std::vector<TileChoice> any(program.product_launches(), TileChoice{Tile::few, {}});
  for (const Launch<T>& launch : program.bind(at, any)) {
    if (const auto* const products = std::get_if<ProductsLaunch<T>>(&launch))
      tiles.push_back(fastest(stream, *products, rows, shared));
  }
  return tiles;
}

// The same for all launches, but for gated ones where that cannot be.
template <class T>
std::vector<TileChoice> all_as(const Program<T>& program, Tile tile) {
  std::vector<TileChoice> tiles;
  for (const StepPlan& step : program.steps()) {
    if (const auto* const launch = std::get_if<ProductsPlan>(&step))
      tiles.push_back({launch->gated() && !can_be_gated(tile) ? Tile::many : tile, {}});
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
      tiles[rows] = all_as(program, *given);
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
