// S3-FIFO (Yang et al., SOSP '23). New entries go to a small queue of a tenth of the cache; those used twice
// there move on to the main queue, others leave, and only their key is kept for as long as 0.9 caches of
// further keys. A key that comes back in that time goes to the main queue at once. There, the oldest entry is
// put back with one use less (of three that count at most), or leaves if it has none. Sizes and thresholds
// are libCacheSim's.
#include "studies/policy.h"

namespace pepnet::studies {
namespace {

std::size_t share_of(std::size_t rows, double share) {
  return static_cast<std::size_t>(static_cast<double>(rows) * share);
}

// Keys that were evicted lately, without their rows: a number of them in order of arrival; the oldest makes
// room.
class Ghost {
 public:
  Ghost(std::size_t most, std::uint64_t seed) : nodes_(most), queue_(nodes_), index_(most, seed) {
    for (std::size_t id = most; id-- > 0;) free_.push_back(static_cast<Id>(id));
  }

  // Whether the key was there; it is not any longer.
  bool take(std::uint64_t key) noexcept {
    const Id id = index_.find(key, key_of_);
    if (id == kNoId) return false;
    release(id);
    return true;
  }
  // A key that is not there.
  void add(std::uint64_t key) noexcept {
    if (nodes_.empty()) return;
    if (free_.empty()) release(queue_.oldest());
    const Id id = free_.back();
    free_.pop_back();
    nodes_[id].key = key;
    queue_.push(id);
    (void)index_.find_or_insert(key, id, key_of_);
  }

 private:
  struct Node {
    std::uint64_t key;
    Id newer, older;
  };
  void release(Id id) noexcept {
    index_.erase(nodes_[id].key, key_of_);
    queue_.remove(id);
    free_.push_back(id);
  }

  struct KeyOf {
    const std::vector<Node>& nodes;
    std::uint64_t operator()(Id id) const noexcept { return nodes[id].key; }
  };

  std::vector<Node> nodes_;
  KeyOf key_of_{nodes_};
  Queue<Node> queue_;
  SlotIndex index_;
  std::vector<Id> free_;
};

class S3Fifo final : public Policy {
 public:
  S3Fifo(Entries& entries, std::uint64_t seed)
      : entries_(entries),
        small_(entries),
        main_(entries),
        ghost_(share_of(entries.size(), 0.90), seed),
        small_rows_(share_of(entries.size(), 0.10)) {}

  void announce(std::uint64_t key) noexcept override { returns_ = ghost_.take(key); }
  void enter(Id id) noexcept override {
    Entry& entry = entries_[id];
    entry.frequency = 0;
    entry.in_main = returns_ || (!evicted_ && small_.size() >= small_rows_);
    (entry.in_main ? main_ : small_).push(id);
  }
  void touch(Id id) noexcept override {
    Entry& entry = entries_[id];
    if (entry.frequency < kMostFrequency) ++entry.frequency;
  }
  Id evict() noexcept override {
    evicted_ = true;
    const Id id = victim();
    const Entry& entry = entries_[id];
    (entry.in_main ? main_ : small_).remove(id);
    if (!entry.in_main) ghost_.add(entry.key);
    return id;
  }

 private:
  static constexpr std::uint8_t kMostFrequency = 3;
  static constexpr std::uint8_t kToMain = 2;

  Id victim() noexcept {
    const bool from_small = main_.size() <= entries_.size() - small_rows_;
    while (from_small && small_.size() > 0) {
      const Id id = small_.oldest();
      if (entries_[id].frequency < kToMain) return id;
      small_.remove(id);
      main_.push(id);
      entries_[id].frequency = 0;
      entries_[id].in_main = true;
    }
    for (;;) {
      const Id id = main_.oldest();
      if (entries_[id].frequency == 0) return id;
      main_.remove(id);
      main_.push(id);
      --entries_[id].frequency;
    }
  }

  Entries& entries_;
  Queue<Entry> small_, main_;
  Ghost ghost_;
  std::size_t small_rows_;
  bool evicted_ = false;  // any entry so far
  bool returns_ = false;  // the key announced last was evicted lately
};

}  // namespace

std::unique_ptr<Policy> make_s3fifo(Entries& entries, std::uint64_t seed) {
  return std::make_unique<S3Fifo>(entries, seed);
}

}  // namespace pepnet::studies
