// The share of a product that one block computes, and how its threads divide it.
//
// A few rows leave most of a GPU waiting for weights: small blocks, so that many stream them, each with much
// under way. Many rows are bound by what blocks read again of each other: large ones. Which of them is the
// fastest for a product is measured, see tuning.h. An element's sum runs over k in the same order in all of
// them, so its bits do not depend on that.
#pragma once

#include <cstddef>

#include "cuda/numbers.h"

namespace pepnet::cuda {

enum class Tile : int { few, middle, many, wide };
constexpr Tile kTiles[] = {Tile::few, Tile::middle, Tile::many, Tile::wide};
static_assert(Tile::few == Tile{0} && Tile::wide == Tile{3}, "tables of shapes are in this order");
static_assert(Precision::fp32 == Precision{0} && Precision::bf16 == Precision{1}, "and in this one");

struct Shape {
  int rows, columns;          // of a block
  int step;                   // of k that a stage holds
  int stages;                 // all but one of them are under way while one is multiplied
  int own_rows, own_columns;  // bf16: of a warp, blocks of 16×8 that the tensor cores make; fp32: of a thread
  int element_bytes;
  int threads;
  int blocks;  // that registers leave room for on a multiprocessor, of gated products half as many

  PEPNET_BOTH constexpr int words() const { return step * element_bytes / 4; }
  // Lines lie 4 words further apart than they are long, so that what a warp reads together is in different
  // banks.
  PEPNET_BOTH constexpr int row_words() const { return words() + 4; }
  PEPNET_BOTH constexpr int weight_lines() const { return element_bytes == 2 ? columns : step; }
  PEPNET_BOTH constexpr int weight_words() const { return element_bytes == 2 ? words() : columns; }
  PEPNET_BOTH constexpr int weight_line_words() const {
    return weight_words() + (element_bytes == 2 ? 4 : 0);
  }
  // What the lanes of half a warp have of the sums goes to different banks.
  PEPNET_BOTH constexpr int out_line() const { return columns + 8; }
  constexpr std::size_t shared_bytes() const {
    const int in = stages * (rows * row_words() + weight_lines() * weight_line_words()),
              out = rows * out_line();
    return static_cast<std::size_t>(in > out ? in : out) * 4;
  }
};

// The registers of a thread do not hold both sums of a gated product in the widest tile.
constexpr bool can_be_gated(Tile tile) { return tile != Tile::wide; }

PEPNET_BOTH constexpr Shape shape_of(Precision precision, Tile tile) {
  constexpr Shape kShapes[2][4] = {{{8, 32, 64, 7, 1, 2, 4, 128, 3},
                                    {64, 64, 16, 4, 4, 4, 4, 256, 3},
                                    {128, 64, 16, 4, 8, 4, 4, 256, 2},
                                    {128, 128, 16, 4, 8, 8, 4, 256, 1}},
                                   {{16, 32, 64, 10, 16, 8, 2, 128, 3},
                                    {64, 64, 32, 6, 32, 32, 2, 128, 3},
                                    {128, 128, 32, 4, 64, 32, 2, 256, 2},
                                    {128, 256, 32, 4, 64, 64, 2, 256, 1}}};
  return kShapes[static_cast<int>(precision)][static_cast<int>(tile)];
}

}  // namespace pepnet::cuda
