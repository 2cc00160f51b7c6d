// The row tables on the device, and the parameters of the kernels that read and write them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/numbers.h"

namespace pepnet::cuda {

constexpr int kWays = 8;
// The key of a missing id, and of an empty way.
constexpr std::uint64_t kNoKey = ~std::uint64_t{0};
constexpr std::uint32_t kNeverExpires = ~std::uint32_t{0};

enum class EntryState : std::uint16_t { nothing, row, absent };

struct Entry {
  std::uint32_t used;     // the cache's clock when it was last read
  std::uint32_t expires;  // seconds of the cache's time
  float score;
  EntryState state;
  std::uint16_t high;  // not 0: never makes room for others
};
static_assert(sizeof(Entry) == 16);

// All rows of one width, in sets.
struct RowTable {
  std::uint64_t* keys;  // [sets, kWays]
  Entry* entries;       // [sets, kWays]
  float* rows;          // [sets · kWays, width]
  std::uint32_t sets;
  int width;
};

// The finalizer of splitmix64, scaled to the sets.
PEPNET_BOTH std::uint32_t set_of(std::uint64_t key, std::uint32_t sets) {
  key = (key ^ key >> 30) * 0xBF58'476D'1CE4'E5B9U;
  key = (key ^ key >> 27) * 0x94D0'49BB'1331'11EBU;
  key ^= key >> 31;
  return static_cast<std::uint32_t>((key >> 32) * sets >> 32);
}

enum class FieldKind : std::int32_t { id, bag_mean, bag_sum, dense };
constexpr int kMostTargets = 4;

struct GatherField {
  RowTable table;        // of an id or a bag
  std::uint64_t number;  // of its table, in the top 16 bits
  FieldKind kind;
  int width;
  int targets;
  bool fours;  // four columns at once: the width, and where they stand, are multiples of that
  Columns to[kMostTargets];
};

// Where the data of a field begin in one call, in words of 32 bits: ids of one word or two, or numbers; the
// offsets of bags; the default row.
struct FieldWords {
  std::uint32_t values, offsets, default_row;
  std::uint16_t wide, shared;  // shared: one row's for all rows
};

struct Gather {
  const GatherField* fields;
  const std::int32_t* order;  // [fields] first those of one id or number a row: `single` of them; then bags
  int single;
  const FieldWords* words_of;  // [fields]
  const std::uint32_t* words;
  int field_count, rows;
  std::uint32_t clock, now;
  std::uint32_t*
      counts;  // [1 + fields] zeros at first: fields of rows that lack something; ids without a row, by field
  std::uint32_t* lacking;  // [rows · fields] row · fields + field
};

// Columns of fields of rows that came from the host.
struct Patch {
  const GatherField* fields;
  const FieldWords* words_of;
  const std::uint32_t* at;    // [count] row · fields + field
  const std::uint32_t* from;  // [count] where in `values`
  const float* values;
  int count, field_count, rows;
};

// New rows, those of a set side by side: `groups` of them.
struct Insert {
  RowTable table;
  const std::uint64_t* keys;    // [n]
  const Entry* entries;         // [n]
  const float* rows;            // [n, width]
  const std::uint32_t* begins;  // [groups + 1]
  int groups;
  std::uint32_t clock, now;
  bool by_score;  // the row of the lowest score makes room, else the one that was read longest ago
};

// Keys to be removed.
struct Drop {
  RowTable table;
  const std::uint64_t* keys;
  int count;
};

}  // namespace pepnet::cuda
