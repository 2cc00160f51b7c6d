// From a key to its region and its two sets. The hash is a bijection of 64 bits, so that tag and slot
// together give the key back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rows/key_index.h"

namespace pepnet::cache {

// The inverse of pepnet::mix.
inline std::uint64_t unmix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 31) ^ (x >> 62)) * 0x3196'42B2'D24D'8EC3;
  x = (x ^ (x >> 27) ^ (x >> 54)) * 0x96DE'1B17'3F11'9089;
  return x ^ (x >> 30) ^ (x >> 60);
}

constexpr std::uint64_t kTagMask = 0xFFFF;

// The tag is the low 16 bits of the mixed key, a slot keeps the other 48: together they are the key.
struct Home {
  std::uint64_t hash;
  std::uint32_t tag;  // in the upper half of a hot word
  std::uint32_t region;
  std::uint32_t first;  // sets within the region; equal where a region has one set
  std::uint32_t second;

  std::uint64_t rest() const noexcept { return hash >> 16; }
};

// Two sets of one region. Region and first set come from the upper half of the hash by multiplication, which
// spreads keys over any number of regions and sets alike; the second set comes from other bits and differs
// from the first.
class Homes {
 public:
  Homes(std::uint64_t seed, std::uint32_t regions, std::uint32_t sets) noexcept
      : seed_(mix(seed + 0x9E37'79B9'7F4A'7C15)), regions_(regions), sets_(sets) {}

  std::uint64_t hash_of(std::uint64_t key) const noexcept { return mix(key ^ seed_); }
  Home of(std::uint64_t key) const noexcept { return of_hash(hash_of(key)); }
  Home of_hash(std::uint64_t hash) const noexcept {
    const std::uint64_t scaled = (hash >> 32) * regions_;
    const auto first = static_cast<std::uint32_t>(((scaled & 0xFFFF'FFFF) * sets_) >> 32);
    // One step of 1 .. sets-1 from the first, so that the two differ.
    const std::uint64_t turned = (hash ^ (hash >> 33)) * 0x9FB2'1C65'1E98'DF25;
    const auto step = static_cast<std::uint32_t>(((turned >> 32) * (sets_ - 1)) >> 32) + 1;
    const std::uint32_t second = first + step;
    return {hash, static_cast<std::uint32_t>(hash & kTagMask) << 16, static_cast<std::uint32_t>(scaled >> 32),
            first, second >= sets_ ? second - sets_ : second};
  }
  std::uint64_t key_of(std::uint64_t hash) const noexcept { return unmix(hash) ^ seed_; }

 private:
  std::uint64_t seed_;
  std::uint32_t regions_, sets_;
};

}  // namespace pepnet::cache
