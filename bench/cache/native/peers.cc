// What the cache is measured against, as plain functions for ctypes: the floor, and the textbook LRU.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <new>
#include <unordered_map>

#include "threads/huge_buffer.h"

#define PEPNET_PEER extern "C" __attribute__((visibility("default")))

namespace {

// Rows one after another, on the same kind of pages as the cache's.
struct Rows {
  Rows(std::size_t rows, std::size_t dim) : bytes(dim * sizeof(float)), buffer(rows * bytes) {}

  std::byte* at(std::size_t row) noexcept { return buffer.data() + row * bytes; }

  std::size_t bytes;  // of a row
  pepnet::HugeBuffer buffer;
};

constexpr std::size_t kLine = 64;

void ask(const std::byte* row, std::size_t bytes) noexcept {
  const auto skew = reinterpret_cast<std::uintptr_t>(row) % kLine;
  for (std::size_t at = 0; at < skew + bytes; at += kLine) __builtin_prefetch(row - skew + at, 0, 3);
}

// 160 bytes, the row of the comparison, as straight moves; a call of memcpy for any other size.
void copy_row(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  if (bytes == 160) {
    std::memcpy(to, from, 160);
  } else {
    std::memcpy(to, from, bytes);
  }
}

// A list in order of use and a map to its nodes. No lock: one thread. It only measures lookups: it never
// evicts.
class ListLru {
 public:
  ListLru(std::size_t rows, std::size_t dim) : capacity_(rows), rows_(rows, dim) { nodes_.reserve(rows); }

  bool insert(std::uint64_t key, const std::byte* row) {
    if (nodes_.size() == capacity_) return false;
    order_.push_front(rows_.at(nodes_.size()));
    nodes_.emplace(key, order_.begin());
    copy_row(order_.front(), row, rows_.bytes);
    return true;
  }

  // Whether the key is there: its row is copied to `out`.
  bool lookup(std::uint64_t key, std::byte* out) {
    const auto found = nodes_.find(key);
    if (found == nodes_.end()) return false;
    order_.splice(order_.begin(), order_, found->second);
    copy_row(out, *found->second, rows_.bytes);
    return true;
  }

  std::size_t row_bytes() const noexcept { return rows_.bytes; }

 private:
  std::size_t capacity_;
  Rows rows_;
  std::list<std::byte*> order_;
  std::unordered_map<std::uint64_t, std::list<std::byte*>::iterator> nodes_;
};

// Null where there is no memory.
template <class Peer>
void* make(std::size_t rows, std::size_t dim) {
  try {
    return new Peer(rows, dim);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace

// A table of `rows` rows of zeros.
PEPNET_PEER void* pepnet_table_make(std::size_t rows, std::size_t dim) { return make<Rows>(rows, dim); }

PEPNET_PEER void* pepnet_table_data(void* table) { return static_cast<Rows*>(table)->buffer.data(); }

PEPNET_PEER void pepnet_table_free(void* table) { delete static_cast<Rows*>(table); }

// The floor: out[i] = table[positions[i]], as fast as this machine can. Positions are not checked. `ahead`
// rows are asked for before they are copied. Asking for the lines of `out` too, or asking with the
// non-temporal hint, makes it slower by 1 to 3 ns a row.
PEPNET_PEER void pepnet_table_gather(void* table, const std::int64_t* positions, std::size_t count,
                                     std::byte* out, std::size_t ahead) {
  auto& rows = *static_cast<Rows*>(table);
  const auto row = [&](std::size_t i) { return rows.at(static_cast<std::size_t>(positions[i])); };
  for (std::size_t i = 0; i < count && i < ahead; ++i) ask(row(i), rows.bytes);
  for (std::size_t i = 0; i < count; ++i) {
    if (i + ahead < count) ask(row(i + ahead), rows.bytes);
    copy_row(out + i * rows.bytes, row(i), rows.bytes);
  }
}

PEPNET_PEER void* pepnet_lru_make(std::size_t rows, std::size_t dim) { return make<ListLru>(rows, dim); }

PEPNET_PEER void pepnet_lru_free(void* lru) { delete static_cast<ListLru*>(lru); }

// Returns how many rows found room.
PEPNET_PEER std::size_t pepnet_lru_insert(void* lru, const std::uint64_t* keys, const std::byte* rows,
                                          std::size_t count) {
  auto& cache = *static_cast<ListLru*>(lru);
  std::size_t taken = 0;
  for (std::size_t i = 0; i < count; ++i) taken += cache.insert(keys[i], rows + i * cache.row_bytes());
  return taken;
}

// Returns how many keys were there; rows of those that were not are left as they are.
PEPNET_PEER std::size_t pepnet_lru_lookup(void* lru, const std::uint64_t* keys, std::size_t count,
                                          std::byte* out) {
  auto& cache = *static_cast<ListLru*>(lru);
  std::size_t hits = 0;
  for (std::size_t i = 0; i < count; ++i) hits += cache.lookup(keys[i], out + i * cache.row_bytes());
  return hits;
}
