// What the cache is measured against, as plain functions for ctypes: the floor, and the textbook LRU.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <new>
#include <unordered_map>

#define PEPNET_PEER extern "C" __attribute__((visibility("default")))

namespace {

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

// Rows of a table in order of use, and a map to their nodes. No lock: one thread. Nothing is ever evicted.
struct ListLru {
  std::list<const std::byte*> order;
  std::unordered_map<std::uint64_t, std::list<const std::byte*>::iterator> nodes;
};

}  // namespace

// The floor: out[i] = table[positions[i]], as fast as this machine can. Positions are not checked. `ahead`
// rows are asked for before they are copied. Asking for the lines of `out` too, or asking with the
// non-temporal hint, makes it slower by 1 to 3 ns a row.
PEPNET_PEER void pepnet_gather(const std::byte* table, std::size_t row_bytes, const std::int64_t* positions,
                               std::size_t count, std::byte* out, std::size_t ahead) {
  const auto row = [&](std::size_t i) { return table + static_cast<std::size_t>(positions[i]) * row_bytes; };
  for (std::size_t i = 0; i < count && i < ahead; ++i) ask(row(i), row_bytes);
  for (std::size_t i = 0; i < count; ++i) {
    if (i + ahead < count) ask(row(i + ahead), row_bytes);
    copy_row(out + i * row_bytes, row(i), row_bytes);
  }
}

// An LRU with all rows of a table, which it does not copy. Null: no memory.
PEPNET_PEER void* pepnet_lru_make(const std::byte* table, std::size_t row_bytes, const std::uint64_t* keys,
                                  std::size_t count) {
  try {
    auto lru = std::make_unique<ListLru>();
    lru->nodes.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      lru->order.push_front(table + i * row_bytes);
      lru->nodes.emplace(keys[i], lru->order.begin());
    }
    return lru.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

PEPNET_PEER void pepnet_lru_free(void* lru) { delete static_cast<ListLru*>(lru); }

// Returns how many keys were there; rows of those that were not are left as they are.
PEPNET_PEER std::size_t pepnet_lru_lookup(void* lru, const std::uint64_t* keys, std::size_t count,
                                          std::byte* out, std::size_t row_bytes) {
  auto& [order, nodes] = *static_cast<ListLru*>(lru);
  std::size_t hits = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto found = nodes.find(keys[i]);
    if (found == nodes.end()) continue;
    order.splice(order.begin(), order, found->second);
    copy_row(out + i * row_bytes, *found->second, row_bytes);
    ++hits;
  }
  return hits;
}
