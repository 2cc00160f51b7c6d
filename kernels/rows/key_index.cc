#include "rows/key_index.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "cpu/round_up.h"

namespace pepnet {
namespace {

constexpr double kKeysPerBucket = 3.4;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

// The longest walk grows with the logarithm of the number of keys: 16 buckets among 10^5, 32 among 5·10^7.
// Beyond 128 the keys were made to collide, and another seed scatters them.
constexpr std::size_t kMostWalked = 128;
constexpr int kSeeds = 16;

}  // namespace

KeyIndex::KeyIndex(PackedArray<std::uint64_t> keys) : size_(keys.size()) {
  if (size_ > kMaxKeys) {
    throw std::length_error("keys: expected at most " + std::to_string(kMaxKeys) + ", got " +
                            std::to_string(size_));
  }
  buckets_ = static_cast<std::size_t>(static_cast<double>(size_) / kKeysPerBucket) + 1;
  // A table larger than the first huge page is worth a few bytes of padding: lookups are random, and with 4
  // KiB pages each would miss the TLB as well.
  const bool huge = buckets_ * sizeof(Bucket) >= kHugePage;
  const std::size_t alignment = huge ? kHugePage : kCacheLine;
  bytes_ = round_up(buckets_ * sizeof(Bucket), alignment);
  table_.reset(static_cast<Bucket*>(std::aligned_alloc(alignment, bytes_)));
  if (table_ == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // Advice only: where the kernel declines, the table works as it is.
  if (huge) (void)madvise(table_.get(), bytes_, MADV_HUGEPAGE);
#endif
  for (int attempt = 0; attempt < kSeeds; ++attempt) {
    seed_ = attempt == 0 ? 0 : mix(static_cast<std::uint64_t>(attempt));
    std::memset(static_cast<void*>(table_.get()), 0, bytes_);
    if (insert_all(keys)) return;
  }
  throw std::invalid_argument("keys: expected keys that can be hashed, got " + std::to_string(size_) +
                              " keys that collide under every seed");
}

bool KeyIndex::insert_all(PackedArray<std::uint64_t> keys) {
  for (std::size_t i = 0; i < size_; ++i) {
    if (i + kLookAhead < size_) prefetch(&table_[home_of(keys[i + kLookAhead], seed_, buckets_)]);
    const std::uint64_t key = keys[i];
    std::size_t bucket = home_of(key, seed_, buckets_);
    for (std::size_t walked = 0;; ++walked) {
      Bucket& candidate = table_[bucket];
      const int slot = match(candidate, key);
      if (slot >= 0)
        throw std::invalid_argument("keys: expected distinct keys, got " + std::to_string(key) +
                                    " at positions " + std::to_string(candidate.positions[slot]) + " and " +
                                    std::to_string(i));
      if (candidate.taken < kSlots) {
        candidate.keys[candidate.taken] = key;
        candidate.positions[candidate.taken] = static_cast<std::uint32_t>(i);
        ++candidate.taken;
        break;
      }
      if (walked == kMostWalked) return false;
      candidate.spilled = 1;
      bucket = bucket + 1 == buckets_ ? 0 : bucket + 1;
    }
  }
  return true;
}

void KeyIndex::find(PackedArray<std::uint64_t> keys, std::int64_t* positions) const noexcept {
  std::size_t homes[kLookAhead];
  const std::size_t n = keys.size();
  const std::size_t ahead = n < kLookAhead ? n : kLookAhead;
  for (std::size_t i = 0; i < ahead; ++i) homes[i] = home(keys[i]);
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t& slot = homes[i % kLookAhead];
    const std::size_t bucket = slot;
    if (i + kLookAhead < n) slot = home(keys[i + kLookAhead]);
    positions[i] = resolve(keys[i], bucket);
  }
}

}  // namespace pepnet
