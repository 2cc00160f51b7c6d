// The kernels of the rows that live on the device. See row_table.h.
#pragma once

#include "cuda/collective.h"
#include "cuda/device.h"
#include "cuda/row_table.h"
#include "cuda/rowwise.h"

namespace pepnet::cuda {

constexpr int kAbsent = -1, kUnknown = -2;  // in the place of an entry's number

// The entry that has a row for the key, kAbsent where it is known that there is none, as of a key that is not
// of the field's table: kNoKey is of none.
__device__ __forceinline__ int find(const GatherField& field, std::uint64_t key, std::uint32_t clock,
                                    std::uint32_t now) {
  if ((key ^ field.number) >> 48 != 0) return kAbsent;
  const RowTable& table = field.table;
  const std::size_t first = static_cast<std::size_t>(set_of(key, table.sets)) * kWays;
  for (int way = 0; way < kWays; ++way) {
    const std::size_t at = first + static_cast<std::size_t>(way);
    if (table.keys[at] != key) continue;
    Entry& entry = table.entries[at];
    if (entry.expires <= now) return kUnknown;
    entry.used = clock;
    return entry.held == Held::row ? static_cast<int>(at) : kAbsent;
  }
  return kUnknown;
}

template <class T>
__device__ __forceinline__ void put_column(const GatherField& field, int row, int column, float value) {
  for (int i = 0; i < field.targets; ++i) {
    const GatherTarget& target = field.to[i];
    const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(target.stride) +
                           static_cast<std::size_t>(column);
    if (target.floats) {
      static_cast<float*>(target.to)[at] = value;
    } else {
      static_cast<T*>(target.to)[at] = narrow<T>(value);
    }
  }
}

__device__ __forceinline__ std::uint64_t key_at(const Gather& p, const GatherField& field,
                                                const FieldWords& words, std::uint32_t i) {
  if (words.wide == 0) return field.number | p.words[words.values + i];
  const std::uint32_t* const pair = p.words + words.values + 2 * i;
  return static_cast<std::uint64_t>(pair[1]) << 32 | pair[0];
}

// A warp for a field of a row: finds its rows, adds them up in order as the host does, and writes its
// columns. Where a row is not here the field is left to the host. grid: rows / warps of a block rounded up,
// fields. 8 blocks a multiprocessor at least: left alone, ptxas goes for 32 registers, and spills.
template <class T>
__global__ void __launch_bounds__(kRowThreads, 8) gather_fields(const Gather p) {
  const int number = static_cast<int>(blockIdx.y);
  const int row = static_cast<int>(blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= p.rows) return;  // a whole warp
  const GatherField& field = p.fields[number];
  const FieldWords words = p.words_of[number];
  const auto one = static_cast<std::uint32_t>(words.shared != 0 ? 0 : row);
  if (field.kind == FieldKind::dense) {
    float value;
    memcpy(&value, p.words + words.values + one, sizeof value);
    if (lane == 0) put_column<T>(field, row, 0, value);
    return;
  }
  std::uint32_t first = one, last = one + 1;
  if (field.kind != FieldKind::id) {
    first = p.words[words.offsets + one];
    last = p.words[words.offsets + one + 1];
  }
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
    if (lanes_where(found == kUnknown) != 0) {
      if (counts && lane == 0)
        p.lacking[atomicAdd(p.counts, 1U)] = static_cast<std::uint32_t>(row * p.field_count + number);
      return;
    }
    without += bits_of(lanes_where(found == kAbsent));
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
        const int entry = of_lane(found, i);
        if (column >= field.width) continue;
        const float* const from = entry < 0 ? default_row
                                            : field.table.rows + static_cast<std::size_t>(entry) *
                                                                     static_cast<std::size_t>(field.width);
        sum = field.kind == FieldKind::id ? from[column] : sum + from[column];
      }
    }
    if (column >= field.width) continue;
    if (field.kind == FieldKind::bag_mean && last - first > 1) sum /= divisor;
    put_column<T>(field, row, column, sum);
  }
}

// A warp for a field of a row, or of all rows that share it. grid: patches / warps of a block rounded up.
template <class T>
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
      put_column<T>(field, row, column, values[column]);
}

// Whether `a` makes room rather than `b`: what has nothing to give, then what is over, then by rank.
__device__ __forceinline__ bool goes_before(const Entry& a, const Entry& b, const Insert& p) {
  const auto rank = [&](const Entry& entry) {
    return entry.held == Held::nothing ? 0 : entry.expires <= p.now ? 1 : entry.held == Held::absent ? 2 : 3;
  };
  if (rank(a) != rank(b)) return rank(a) < rank(b);
  if (p.by_score && a.score != b.score) return a.score < b.score;
  return p.clock - a.used > p.clock - b.used;
}

// A warp for the new rows of a set, one after another. grid: groups / warps of a block rounded up.
template <class>
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
      const bool stays = entry.high != 0 && entry.held != Held::nothing && entry.expires > p.now;
      if (stays) continue;
      if (way < 0 || goes_before(entry, p.table.entries[first + static_cast<std::size_t>(way)], p)) way = w;
    }
    sync_lanes();
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
    sync_lanes();
  }
}

// A thread for each key.
template <class>
__global__ void __launch_bounds__(kRowThreads) drop_rows(const Drop p) {
  const int i = static_cast<int>(blockIdx.x * kRowThreads + threadIdx.x);
  if (i >= p.count) return;
  const std::uint64_t key = p.keys[i];
  const std::size_t first = static_cast<std::size_t>(set_of(key, p.table.sets)) * kWays;
  for (std::size_t at = first; at < first + kWays; ++at) {
    if (p.table.keys[at] != key) continue;
    p.table.keys[at] = kNoKey;
    p.table.entries[at].held = Held::nothing;
  }
}

}  // namespace pepnet::cuda
