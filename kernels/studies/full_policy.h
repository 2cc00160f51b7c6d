// Which entry goes when room is needed: the exact form of every policy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "studies/full_entry.h"

namespace pepnet::full {

// Sees the entries that it may evict, and no others: rows of high priority never enter.
class Policy {
 public:
  virtual ~Policy() = default;

  // A key that is about to enter, before room is made for it.
  virtual void announce(std::uint64_t) noexcept {}
  virtual void enter(Id id) noexcept = 0;
  virtual void touch(Id id) noexcept = 0;                // its row was found
  virtual void rescored(Id) noexcept {}                  // its score has changed
  virtual void leave(Id id, bool evicted) noexcept = 0;  // evicted: it is the victim, not deleted or expired
  // The entry to evict now, of that group or of any; kNoId: there is none. May reorder its queues.
  virtual Id victim(Group group) noexcept = 0;
  virtual void clear() noexcept = 0;
  // All entries, roughly in the order in which they would go. Throws std::bad_alloc.
  virtual std::vector<Id> order() const = 0;

  // Bytes of its own for a cache of `rows` rows, whose groups may hold `quotas` rows.
  static std::size_t bytes(CachePolicy policy, std::size_t rows, const std::vector<std::size_t>& quotas);
  static std::unique_ptr<Policy> make(CachePolicy policy, Entries& entries,
                                      const std::vector<std::size_t>& quotas, std::uint64_t seed);
};

}  // namespace pepnet::full
