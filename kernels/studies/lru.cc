// LRU: the row that was used least recently leaves.
#include "studies/policy.h"

namespace pepnet::studies {
namespace {

class Lru final : public Policy {
 public:
  explicit Lru(Entries& entries) : queue_(entries) {}

  void enter(Id id) noexcept override { queue_.push(id); }
  void touch(Id id) noexcept override {
    queue_.remove(id);
    queue_.push(id);
  }
  Id evict() noexcept override {
    const Id id = queue_.oldest();
    queue_.remove(id);
    return id;
  }

 private:
  Queue<Entry> queue_;  // in order of use
};

}  // namespace

std::unique_ptr<Policy> make_lru(Entries& entries) { return std::make_unique<Lru>(entries); }

}  // namespace pepnet::studies
