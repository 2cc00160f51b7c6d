#include "studies/full_s3fifo.h"

namespace pepnet::full {

S3Fifo::S3Fifo(Entries& entries, std::uint64_t seed)
    : entries_(entries),
      small_(entries),
      main_(entries),
      ghost_(ghosts(entries.size()), seed),
      small_rows_(small(entries.size())),
      main_rows_(entries.size() - small_rows_) {}

void S3Fifo::enter(Id id) noexcept {
  Entry& entry = entries_[id];
  entry.frequency = 0;
  entry.in_main = returns_ || (!evicted_ && small_.size() >= small_rows_);
  (entry.in_main ? main_ : small_).push(id);
}

void S3Fifo::leave(Id id, bool evicted) noexcept {
  const Entry& entry = entries_[id];
  (entry.in_main ? main_ : small_).remove(id);
  if (evicted && !entry.in_main && entry.kind == Kind::kRow) ghost_.add(entry.key);
}

Id S3Fifo::victim(Group group) noexcept {
  evicted_ = true;
  if (group != kAnyGroup) return victim_of(group);
  if (main_.size() > main_rows_ || small_.size() == 0) return main_victim();
  while (small_.size() > 0) {
    const Id id = small_.oldest();
    Entry& entry = entries_[id];
    if (entry.frequency < kToMain) return id;
    small_.remove(id);
    main_.push(id);
    entry.frequency = 0;
    entry.in_main = true;
  }
  return main_victim();
}

Id S3Fifo::main_victim() noexcept {
  if (main_.size() == 0) return small_.oldest();
  for (;;) {
    const Id id = main_.oldest();
    Entry& entry = entries_[id];
    if (entry.frequency == 0) return id;
    main_.remove(id);
    main_.push(id);
    --entry.frequency;
  }
}

// A field at its share gives up its oldest entry that would not be kept, else its oldest.
Id S3Fifo::victim_of(Group group) const noexcept {
  Id oldest = kNoId;
  for (const Queue* queue : {&small_, &main_}) {
    const std::uint8_t kept = queue == &small_ ? kToMain : 1;
    for (Id id = queue->oldest(); id != kNoId; id = entries_[id].newer) {
      if (entries_[id].group != group) continue;
      if (entries_[id].frequency < kept) return id;
      if (oldest == kNoId) oldest = id;
    }
  }
  return oldest;
}

void S3Fifo::clear() noexcept {
  small_ = Queue(entries_);
  main_ = Queue(entries_);
  ghost_.clear();
  evicted_ = returns_ = false;
}

std::vector<Id> S3Fifo::order() const {
  std::vector<Id> ids;
  for (const Queue* queue : {&small_, &main_})
    for (Id id = queue->oldest(); id != kNoId; id = entries_[id].newer) ids.push_back(id);
  return ids;
}

}  // namespace pepnet::full
