// Encodes the features of one call as words for the device: 4 bytes per id where ids are below 2^32, else 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cuda/program.h"
#include "cuda/row_table.h"

namespace pepnet::cuda {

// A field of a model, and where its columns begin in the inputs.
struct FieldSpec {
  FieldKind kind;
  int width;
  std::uint64_t number;  // of its table, in the top 16 bits
  std::vector<std::pair<Source, int>> places;
};

// What a call has of a field: one key or value for each of its rows (or for the one that they share), or bags
// whose keys are offsets[r] to offsets[r + 1].
struct FieldView {
  const std::uint64_t* keys = nullptr;
  const std::int64_t* offsets = nullptr;
  const float* values = nullptr;
  const float* default_row = nullptr;  // [width] of ids that have none; not of numbers
  std::size_t count = 0;               // of keys or values
  bool shared = false;                 // there is one row, for all rows of the call
};

// Writes FieldWords [fields] of rows [first, first + rows), then the words that they point to. Returns the
// number of bytes; without `to` how many there are at most, as if all ids took 8. Throws
// std::invalid_argument for a field of another kind, and for offsets that are out of order.
std::size_t write_features(std::span<const FieldSpec> fields, std::span<const FieldView> views,
                           std::size_t first, std::size_t rows, std::byte* to);

}  // namespace pepnet::cuda
