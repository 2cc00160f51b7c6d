// A fast hash map to the slots of an arena, with the bookkeeping of a cache at every hit, one key after the
// other.
#pragma once

#include <stdexcept>

#include "peer.h"

namespace pepnet::bench {

// The finaliser of splitmix64, for maps whose own hash is the identity.
struct Mix {
  std::size_t operator()(std::uint64_t x) const noexcept {
    x = (x ^ (x >> 30)) * 0xBF58'476D'1CE4'E5B9;
    x = (x ^ (x >> 27)) * 0x94D0'49BB'1331'11EB;
    return x ^ (x >> 31);
  }
};

// `Map` takes uint64 to uint32.
template <class Map>
class MapArena final : public CachePeer {
 public:
  MapArena(std::size_t rows, std::size_t dim)
      : capacity_(rows), dim_(dim), arena_(rows, sizeof(Header) + dim * sizeof(float)) {
    slots_.reserve(rows);
  }

  void insert(const std::uint64_t* keys, const float* rows, std::size_t count) override {
    for (std::size_t i = 0; i < count; ++i) {
      const auto next = static_cast<std::uint32_t>(slots_.size());
      const auto [entry, added] = slots_.try_emplace(keys[i], next);
      if (added && next == capacity_) {
        slots_.erase(entry);
        throw std::length_error("this peer only measures lookups: it never evicts");
      }
      std::byte* const slot = arena_.slot(entry->second);
      const Header header{1, kNever, ++clock_};
      std::memcpy(slot, &header, sizeof header);
      copy_row(slot + sizeof header, rows + i * dim_, dim_ * sizeof(float));
    }
  }

  std::size_t lookup(const std::uint64_t* keys, std::size_t count, float* out,
                     std::ptrdiff_t stride) override {
    std::size_t hits = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto found = slots_.find(keys[i]);
      if (found == slots_.end()) continue;
      std::byte* const slot = arena_.slot(found->second);
      Header header;
      std::memcpy(&header, slot, sizeof header);
      if (header.version == kTombstone || header.expires <= now_) continue;
      header.used = ++clock_;
      std::memcpy(slot, &header, sizeof header);
      copy_row(out + static_cast<std::ptrdiff_t>(i) * stride, slot + sizeof header, dim_ * sizeof(float));
      ++hits;
    }
    return hits;
  }

  std::size_t size() const override { return slots_.size(); }

 private:
  struct Header {
    std::uint64_t version;
    std::uint32_t expires;  // seconds
    std::uint32_t used;     // clock_ at the last hit
  };
  static constexpr std::uint64_t kTombstone = 0;
  static constexpr std::uint32_t kNever = 0xFFFF'FFFF;

  std::size_t capacity_, dim_;
  Arena arena_;
  Map slots_;
  std::uint32_t clock_ = 0;
  std::uint32_t now_ = 1;
};

}  // namespace pepnet::bench
