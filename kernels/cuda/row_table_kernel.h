// The kernels that read and write row tables. See row_table.h.
#pragma once

#include "cuda/collective.h"
#include "cuda/row_table.h"
#include "cuda/rowwise.h"

namespace pepnet::cuda {

constexpr int kAbsent = -1, kUnknown = -2;  // instead of the number of an entry

// Returns the entry that has the key's row; kAbsent where the key is known to have none, which includes every
// key of another table, and kNoKey; else kUnknown.
__device__ __forceinline__ int find(const GatherField& field, std::uint64_t key, std::uint32_t clock,
                                    std::uint32_t now) {
  if ((key ^ field.number) >> 48 != 0) return kAbsent;
  const RowTable& table = field.table;
  const std::size_t first = static_cast<std::size_t>(set_of(key, table.sets)) * kWays;
  // All ways are read at once.
  struct alignas(16) Two {
    std::uint64_t key[2];
  };
  PEPNET_ALIGNED(table.keys + first, sizeof(Two));
  const auto* const set = reinterpret_cast<const Two*>(table.keys + first);
  int way = -1;
  PEPNET_UNROLL
  for (int i = 0; i < kWays; ++i) way = set[i / 2].key[i % 2] == key ? i : way;
  if (way < 0) return kUnknown;
  const std::size_t at = first + static_cast<std::size_t>(way);
  Entry& entry = table.entries[at];
  if (entry.expires <= now) return kUnknown;
  entry.used = clock;
  return entry.state == EntryState::row ? static_cast<int>(at) : kAbsent;
}

// Writes columns of a row wherever the field stands.
template <int kWide>
__device__ __forceinline__ void put(const GatherField& field, int row, int column,
                                    const Numbers<kWide>& numbers) {
  for (int i = 0; i < field.targets; ++i) write(field.to[i], row, column, numbers);
}

// Of an entry that was found, or not.
__device__ __forceinline__ const float* row_at(const GatherField& field, int entry,
                                               const float* default_row) {
  if (entry < 0) return default_row;
  return field.table.rows + static_cast<std::size_t>(entry) * static_cast<std::size_t>(field.width);
}

__device__ __forceinline__ std::uint64_t key_at(const Gather& p, const GatherField& field,
                                                const FieldWords& words, std::uint32_t i) {
  if (words.wide == 0) return field.number | p.words[words.values + i];
  const std::uint32_t* const pair = p.words + words.values + 2 * i;
  return static_cast<std::uint64_t>(pair[1]) << 32 | pair[0];
}

// Writes the columns of `many` rows from `first` on, whose entries the lanes have found; neighbouring lanes
// write neighbouring columns.
template <int kWide>
__device__ __forceinline__ void put_rows(const GatherField& field, int first, int many, int found,
                                         const float* default_row) {
  const int lane = static_cast<int>(threadIdx.x % 32), of_row = field.width / kWide, all = many * of_row;
  for (int begin = 0; begin < all; begin += 32) {
    const int i = begin + lane, row = i < all ? i / of_row : 0, column = i % of_row * kWide;
    const int entry = __shfl_sync(kAllLanes, found, row);
    if (i >= all) continue;  // what is not here gets the default row, until it is patched in
    const float* const from = row_at(field, entry, default_row);
    Numbers<kWide> numbers;
    if (entry < 0) {  // at any address
      PEPNET_UNROLL
      for (int j = 0; j < kWide; ++j) numbers.of[j] = from[column + j];
    } else {
      numbers = read<float, kWide>(from, static_cast<std::size_t>(column));
    }
    put(field, first + row, column, numbers);
  }
}

// A warp for 32 rows of a field that has one id or number each.
__device__ __forceinline__ void gather_single(const Gather& p, int number, int first) {
  const GatherField& field = p.fields[number];
  const FieldWords words = p.words_of[number];
  const int lane = static_cast<int>(threadIdx.x % 32), row = first + lane,
            many = p.rows - first < 32 ? p.rows - first : 32;
  const bool live = lane < many;
  const auto one = static_cast<std::uint32_t>(words.shared != 0 || !live ? 0 : row);
  if (field.kind == FieldKind::dense) {
    float value;
    memcpy(&value, p.words + words.values + one, sizeof value);
    if (live) put(field, row, 0, Numbers<1>{{value}});
    return;
  }
  const int found = find(field, key_at(p, field, words, one), p.clock, p.now);
  // What all rows share is told once.
  const bool told = live && (words.shared == 0 || row == 0);
  const std::uint32_t unknown = __ballot_sync(kAllLanes, told && found == kUnknown),
                      without = __ballot_sync(kAllLanes, told && found == kAbsent);
  if (unknown != 0) {
    int at = 0;
    if (lane == 0) at = static_cast<int>(atomicAdd(p.counts, bits_of(unknown)));
    at = __shfl_sync(kAllLanes, at, 0);
    if ((unknown >> lane & 1U) != 0)
      p.lacking[static_cast<std::uint32_t>(at) + bits_of(unknown & ((1U << lane) - 1))] =
          static_cast<std::uint32_t>(row * p.field_count + number);
  }
  if (lane == 0 && without != 0) atomicAdd(p.counts + 1 + number, bits_of(without));
  const auto* const default_row = reinterpret_cast<const float*>(p.words + words.default_row);
  if (field.fours) {
    put_rows<4>(field, first, many, found, default_row);
  } else {
    put_rows<1>(field, first, many, found, default_row);
  }
}

// A warp for a bag of a row: finds its rows and adds them up in order as the host does. Where a row is not
// here the field is left to the host.
__device__ __forceinline__ void gather_bag(const Gather& p, int number, int row) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const GatherField& field = p.fields[number];
  const FieldWords words = p.words_of[number];
  const auto one = static_cast<std::uint32_t>(words.shared != 0 ? 0 : row);
  const std::uint32_t first = p.words[words.offsets + one], last = p.words[words.offsets + one + 1];
  const bool counts = words.shared == 0 || row == 0;
  // The entries of the last 32 ids stay in the lanes; of a longer bag they are found once more as they are
  // added.
  int found = kAbsent;
  std::uint32_t without = 0;
  const auto look = [&](std::uint32_t begin) {
    const std::uint32_t i = begin + static_cast<std::uint32_t>(lane);
    found = i < last ? find(field, key_at(p, field, words, i), p.clock, p.now) : 0;
  };
  for (std::uint32_t begin = first; begin < last; begin += 32) {
    look(begin);
    if (__ballot_sync(kAllLanes, found == kUnknown) != 0) {
      if (counts && lane == 0)
        p.lacking[atomicAdd(p.counts, 1U)] = static_cast<std::uint32_t>(row * p.field_count + number);
      return;
    }
    without += bits_of(__ballot_sync(kAllLanes, found == kAbsent));
  }
  if (counts && lane == 0 && without > 0) atomicAdd(p.counts + 1 + number, without);
  const bool again = last - first > 32;
  const auto* const default_row = reinterpret_cast<const float*>(p.words + words.default_row);
  const auto divisor = static_cast<float>(last - first);
  for (int begin_column = 0; begin_column < field.width; begin_column += 32) {
    const int column = begin_column + lane;
    float sum = 0.0F;
    for (std::uint32_t begin = first; begin < last; begin += 32) {
      if (again) look(begin);
      const std::uint32_t many = last - begin < 32 ? last - begin : 32;
      for (std::uint32_t i = 0; i < many; ++i) {
        const int entry = __shfl_sync(kAllLanes, found, static_cast<int>(i));
        if (column >= field.width) continue;
        sum += row_at(field, entry, default_row)[column];
      }
    }
    if (column >= field.width) continue;
    if (field.kind == FieldKind::bag_mean && last - first > 1) sum /= divisor;
    put(field, row, column, Numbers<1>{{sum}});
  }
}

// grid: for each field of one id or number a row, rows / threads of a block rounded up; then for each bag,
// rows / warps of a block. 8 blocks a multiprocessor at least: left alone, ptxas goes for 32 registers, and
// spills.
__global__ void __launch_bounds__(kRowThreads, 8) gather_fields(const Gather p) {
  constexpr int kWarps = kRowThreads / 32;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int of_single = (p.rows + kRowThreads - 1) / kRowThreads, of_bag = (p.rows + kWarps - 1) / kWarps;
  const int block = static_cast<int>(blockIdx.x), bag_block = block - p.single * of_single;
  if (bag_block < 0) {
    const int first = block % of_single * kRowThreads + warp * 32;
    if (first < p.rows) gather_single(p, p.order[block / of_single], first);
  } else {
    const int row = bag_block % of_bag * kWarps + warp;
    if (row < p.rows) gather_bag(p, p.order[p.single + bag_block / of_bag], row);
  }
}

// A warp for a field of a row, or of all rows that share it. grid: patches / warps of a block rounded up.
__global__ void __launch_bounds__(kRowThreads) patch_fields(const Patch p) {
  const int number = static_cast<int>(blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32);
  if (number >= p.count) return;
  const auto at = static_cast<int>(p.at[number]);
  const GatherField& field = p.fields[at % p.field_count];
  const bool shared = p.words_of[at % p.field_count].shared != 0;
  const float* const values = p.values + p.from[number];
  const int first = shared ? 0 : at / p.field_count, last = shared ? p.rows : first + 1;
  for (int row = first; row < last; ++row)
    for (int column = static_cast<int>(threadIdx.x % 32); column < field.width; column += 32)
      put(field, row, column, Numbers<1>{{values[column]}});
}

// Whether `a` is evicted before `b`: empty ways first, then expired entries, then negative entries, then
// rows.
__device__ __forceinline__ bool goes_before(const Entry& a, const Entry& b, const Insert& p) {
  const auto rank = [&](const Entry& entry) {
    return entry.state == EntryState::nothing  ? 0
           : entry.expires <= p.now            ? 1
           : entry.state == EntryState::absent ? 2
                                               : 3;
  };
  if (rank(a) != rank(b)) return rank(a) < rank(b);
  if (p.by_score && a.score != b.score) return a.score < b.score;
  return p.clock - a.used > p.clock - b.used;
}

// A warp inserts the new rows of a set, one after another. grid: groups / warps of a block rounded up.
__global__ void __launch_bounds__(kRowThreads) insert_rows(const Insert p) {
  const int group = static_cast<int>(blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (group >= p.groups) return;
  for (std::uint32_t i = p.begins[group]; i < p.begins[group + 1]; ++i) {
    const std::uint64_t key = p.keys[i];
    const std::size_t first = static_cast<std::size_t>(set_of(key, p.table.sets)) * kWays;
    // All lanes look at all ways and come to the same end.
    int way = -1;
    for (int w = 0; w < kWays; ++w) {
      const std::size_t at = first + static_cast<std::size_t>(w);
      if (p.table.keys[at] == key) {
        way = w;
        break;
      }
      const Entry& entry = p.table.entries[at];
      const bool stays = entry.high != 0 && entry.state != EntryState::nothing && entry.expires > p.now;
      if (stays) continue;
      if (way < 0 || goes_before(entry, p.table.entries[first + static_cast<std::size_t>(way)], p)) way = w;
    }
    __syncwarp();  // what a lane wrote before, the others read after
    if (way >= 0) {
      const std::size_t at = first + static_cast<std::size_t>(way);
      if (lane == 0) {
        p.table.keys[at] = key;
        p.table.entries[at] = p.entries[i];
        p.table.entries[at].used = p.clock;
      }
      const auto width = static_cast<std::size_t>(p.table.width);
      for (std::size_t column = static_cast<std::size_t>(lane); column < width; column += 32)
        p.table.rows[at * width + column] = p.rows[i * width + column];
    }
    __syncwarp();
  }
}

// A thread for each key.
__global__ void __launch_bounds__(kRowThreads) drop_rows(const Drop p) {
  const int i = static_cast<int>(blockIdx.x * kRowThreads + threadIdx.x);
  if (i >= p.count) return;
  const std::uint64_t key = p.keys[i];
  const std::size_t first = static_cast<std::size_t>(set_of(key, p.table.sets)) * kWays;
  for (std::size_t at = first; at < first + kWays; ++at) {
    if (p.table.keys[at] != key) continue;
    p.table.keys[at] = kNoKey;
    p.table.entries[at].state = EntryState::nothing;
  }
}

}  // namespace pepnet::cuda
