// A binary heap of entries that know their place in it, so that any of them can move or leave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "studies/full_entry.h"

namespace pepnet::full {

// `before(a, b)`: whether entry a comes out before entry b. At most `most` entries; nothing is allocated
// later.
template <class Before, Id Entry::* place>
class EntryHeap {
 public:
  EntryHeap(Entries& entries, std::size_t most) : entries_(&entries) { ids_.reserve(most); }

  bool empty() const noexcept { return ids_.empty(); }
  Id first() const noexcept { return ids_.front(); }
  const std::vector<Id>& ids() const noexcept { return ids_; }
  void clear() noexcept { ids_.clear(); }  // the entries are forgotten with it

  void push(Id id) noexcept {
    ids_.push_back(id);
    at(id).*place = static_cast<Id>(ids_.size() - 1);
    rise(ids_.size() - 1);
  }
  void remove(Id id) noexcept {
    const std::size_t hole = at(id).*place;
    const Id last = ids_.back();
    ids_.pop_back();
    at(id).*place = kNoId;
    if (last == id) return;
    put(hole, last);
    moved(last);
  }
  // Its key has changed.
  void moved(Id id) noexcept {
    rise(at(id).*place);
    sink(at(id).*place);
  }

 private:
  Entry& at(Id id) noexcept { return (*entries_)[id]; }
  void put(std::size_t where, Id id) noexcept {
    ids_[where] = id;
    at(id).*place = static_cast<Id>(where);
  }
  void rise(std::size_t where) noexcept {
    const Id id = ids_[where];
    while (where > 0) {
      const std::size_t parent = (where - 1) / 2;
      if (!Before{}(at(id), at(ids_[parent]))) break;
      put(where, ids_[parent]);
      where = parent;
    }
    put(where, id);
  }
  void sink(std::size_t where) noexcept {
    const Id id = ids_[where];
    for (;;) {
      std::size_t child = 2 * where + 1;
      if (child >= ids_.size()) break;
      if (child + 1 < ids_.size() && Before{}(at(ids_[child + 1]), at(ids_[child]))) ++child;
      if (!Before{}(at(ids_[child]), at(id))) break;
      put(where, ids_[child]);
      where = child;
    }
    put(where, id);
  }

  Entries* entries_;
  std::vector<Id> ids_;
};

struct ExpiresBefore {
  bool operator()(const Entry& a, const Entry& b) const noexcept { return a.expires < b.expires; }
};
using ExpiryHeap = EntryHeap<ExpiresBefore, &Entry::expiry_place>;

// The lowest score first; of equal ones the entry that was used least recently.
struct ScoresBefore {
  bool operator()(const Entry& a, const Entry& b) const noexcept {
    return a.score != b.score ? a.score < b.score : a.access < b.access;
  }
};
using ScoreHeap = EntryHeap<ScoresBefore, &Entry::score_place>;

}  // namespace pepnet::full
