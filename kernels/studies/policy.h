// Which row leaves when room is needed: the exact form of every policy.
#pragma once

#include <memory>

#include "studies/entry.h"

namespace pepnet::studies {

class Policy {
 public:
  virtual ~Policy() = default;

  // A key that is about to enter, before room is made for it.
  virtual void announce(std::uint64_t) noexcept {}
  virtual void enter(Id id) noexcept = 0;
  virtual void touch(Id id) noexcept = 0;  // its row was found
  virtual void rescored(Id) noexcept {}    // its score has changed
  // Takes the entry that leaves out of the policy's queues and returns it. There must be one.
  virtual Id evict() noexcept = 0;
};

std::unique_ptr<Policy> make_lru(Entries& entries);
std::unique_ptr<Policy> make_scored(Entries& entries);  // gset and lfu, which differ in what counts
std::unique_ptr<Policy> make_sieve(Entries& entries);
std::unique_ptr<Policy> make_s3fifo(Entries& entries, std::uint64_t seed);

}  // namespace pepnet::studies
