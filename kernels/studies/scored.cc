// GSET and LFU: the row with the lowest score leaves; of equal scores the row that was used least recently.
#include "studies/policy.h"

namespace pepnet::studies {
namespace {

// A binary heap of entries that know their place in it, so that any of them can move.
class Scored final : public Policy {
 public:
  explicit Scored(Entries& entries) : entries_(entries) { heap_.reserve(entries.size()); }

  void enter(Id id) noexcept override {
    heap_.push_back(id);
    rise(heap_.size() - 1);
  }
  void touch(Id id) noexcept override { moved(id); }
  void rescored(Id id) noexcept override { moved(id); }
  Id evict() noexcept override {
    const Id id = heap_.front();
    heap_.front() = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) sink(0);
    return id;
  }

 private:
  bool before(Id a, Id b) const noexcept {
    const Entry &one = entries_[a], &other = entries_[b];
    return one.score != other.score ? one.score < other.score : one.access < other.access;
  }
  void moved(Id id) noexcept {
    rise(entries_[id].heap_place);
    sink(entries_[id].heap_place);
  }
  void put(std::size_t where, Id id) noexcept {
    heap_[where] = id;
    entries_[id].heap_place = static_cast<Id>(where);
  }
  void rise(std::size_t where) noexcept {
    const Id id = heap_[where];
    while (where > 0) {
      const std::size_t parent = (where - 1) / 2;
      if (!before(id, heap_[parent])) break;
      put(where, heap_[parent]);
      where = parent;
    }
    put(where, id);
  }
  void sink(std::size_t where) noexcept {
    const Id id = heap_[where];
    for (;;) {
      std::size_t child = 2 * where + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && before(heap_[child + 1], heap_[child])) ++child;
      if (!before(heap_[child], id)) break;
      put(where, heap_[child]);
      where = child;
    }
    put(where, id);
  }

  Entries& entries_;
  std::vector<Id> heap_;
};

}  // namespace

std::unique_ptr<Policy> make_scored(Entries& entries) { return std::make_unique<Scored>(entries); }

}  // namespace pepnet::studies
