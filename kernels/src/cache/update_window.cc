#include "cache/update_window.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>

#include "pepnet/key_index.h"
#include "pepnet/prefetch.h"

namespace pepnet::cache {
namespace {

constexpr std::size_t kTrackedPerPending = 4;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

WindowOptions checked(const WindowOptions& options) {
  if (!(options.interval > 0.0 && options.interval < kNever)) {
    throw std::invalid_argument("interval: expected a finite number of seconds above 0, got " +
                                std::to_string(options.interval));
  }
  if (options.limit == 0) throw std::invalid_argument("limit: expected at least 1, got 0");
  if (options.max_pending == 0 || options.max_pending > UpdateWindow::kMaxPending) {
    throw std::invalid_argument("max_pending: expected 1 to " + std::to_string(UpdateWindow::kMaxPending) +
                                ", got " + std::to_string(options.max_pending));
  }
  return options;
}

std::size_t table_size(std::size_t entries) {
  std::size_t size = 2;
  while (size < 2 * entries) size *= 2;
  return size;
}

// As in the cache: of two statements of one version, the deletion holds.
constexpr bool newer(std::uint64_t version, bool erase, std::uint64_t than, bool than_erase) noexcept {
  return version > than || (version == than && erase && !than_erase);
}

// Nobody who chooses ids can know it; nothing that is seen from outside depends on it.
std::uint64_t unforeseen(const void* here) noexcept {
  const auto ticks = std::chrono::steady_clock::now().time_since_epoch().count();
  return mix(static_cast<std::uint64_t>(ticks) ^ mix(reinterpret_cast<std::uintptr_t>(here)));
}

}  // namespace

UpdateWindow::UpdateWindow(RowCache& cache, std::size_t dim, const WindowOptions& options)
    : cache_(cache), dim_(dim), options_(checked(options)), seed_(unforeseen(this)), interval_(kNone) {
  keys_.resize(kChunk);
  versions_.resize(kChunk);
  expires_.resize(kChunk);
  scores_.resize(kChunk);
  gathered_rows_.resize(kChunk * dim);
  owners_.resize(kChunk);
  results_.resize(kChunk);
  infos_.resize(kChunk);
  homes_.resize(kChunk);
  most_tracked_ = options_.after_expiry ? 0 : kTrackedPerPending * options_.max_pending;
  if (options_.after_expiry) return;
  tracked_.reserve(most_tracked_);
  places_.resize(table_size(most_tracked_));
  pending_.resize(options_.max_pending);
  rows_.resize(options_.max_pending * dim);
}

// In a child whose parent was in the middle of a change, what was held is the parent's to apply.
void UpdateWindow::after_fork() noexcept {
  if (lock_.try_lock()) {
    lock_.unlock();
    return;
  }
  new (&lock_) std::mutex;
  tracked_.clear();
  std::fill(places_.begin(), places_.end(), 0U);
  first_ = size_ = 0;
  pending_now_.store(0, std::memory_order_relaxed);
}

std::size_t UpdateWindow::apply(const RowBatch& batch) noexcept {
  return each_chunk(batch.keys.size(), [&](std::size_t i) noexcept {
    return Operation{
        {batch.keys[i], batch.versions == nullptr ? 0 : batch.versions[i],
         batch.expires == nullptr ? kNone : batch.expires[i],
         batch.scores == nullptr ? std::numeric_limits<float>::quiet_NaN() : batch.scores[i], false},
        batch.rows + static_cast<std::ptrdiff_t>(i) * batch.stride};
  });
}

std::size_t UpdateWindow::erase(PackedArray<std::uint64_t> keys, const std::uint64_t* versions,
                                const double* expires) noexcept {
  return each_chunk(keys.size(), [&](std::size_t i) noexcept {
    const double until = expires == nullptr ? kNone : std::isnan(expires[i]) ? kNever : expires[i];
    return Operation{{keys[i], versions[i], until, std::numeric_limits<float>::quiet_NaN(), true}, nullptr};
  });
}

std::size_t UpdateWindow::flush(double now) noexcept {
  const std::lock_guard guard(lock_);
  const std::uint64_t before = applied_.read();
  if (std::isnan(now)) {
    flush_held();
  } else {
    roll(now);
  }
  return applied_.read() - before;
}

WindowStats UpdateWindow::stats() const noexcept {
  return {applied_.read(),   stale_.read(),     rejected_.read(),
          held_.read(),      coalesced_.read(), early_.read(),
          untracked_.read(), dropped_.read(),   pending_now_.load(std::memory_order_relaxed)};
}

template <class Read>
std::size_t UpdateWindow::each_chunk(std::size_t size, Read&& read) noexcept {
  std::size_t applied = 0;
  for (std::size_t begin = 0; begin < size; begin += kChunk) {
    const std::size_t end = std::min(begin + kChunk, size);
    const std::lock_guard guard(lock_);
    applied += options_.after_expiry ? after_expiry(begin, end, read) : limited(begin, end, read);
  }
  return applied;
}

template <class Read>
std::size_t UpdateWindow::limited(std::size_t begin, std::size_t end, Read&& read) noexcept {
  roll(cache_.time());
  for (std::size_t i = begin; i < end; ++i) {
    homes_[i - begin] = home_of(read(i).what.key);
    prefetch(&places_[homes_[i - begin]]);
  }
  for (std::size_t i = begin; i < end; ++i) {
    const std::uint32_t place = places_[homes_[i - begin]];
    if (place != 0) prefetch(&tracked_[place - 1]);
  }
  gathered_ = 0;
  bool erase = false;  // the same for a whole batch
  for (std::size_t i = begin; i < end; ++i) {
    const Operation operation = read(i);
    erase = operation.what.erase;
    Tracked* tracked = nullptr;
    if (decide(operation, tracked) == Decision::kNow) gather(operation, tracked);
  }
  return send(erase);
}

template <class Read>
std::size_t UpdateWindow::after_expiry(std::size_t begin, std::size_t end, Read&& read) noexcept {
  const std::size_t size = end - begin;
  gathered_ = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const Operation operation = read(begin + i);
    if (operation.what.erase) {
      gather(operation, nullptr);
    } else {
      keys_[i] = operation.what.key;
    }
  }
  if (gathered_ != 0) return send(true);
  const double now = cache_.unix_time();
  const auto stays = [&](const EntryInfo& info) {
    return info.outcome == Outcome::kRow && info.expires > now;
  };
  cache_.peek({keys_.data(), size}, infos_.data());
  std::size_t applied = 0;
  std::size_t dropped = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (stays(infos_[i])) {
      ++dropped;
      continue;
    }
    // Looked at again, since the same id may have come earlier in the batch.
    const Operation operation = read(begin + i);
    EntryInfo info;
    cache_.peek({&operation.what.key, 1}, &info);
    if (stays(info)) {
      ++dropped;
      continue;
    }
    gathered_ = 0;
    gather(operation, nullptr);
    applied += send(false);
  }
  dropped_ += dropped;
  return applied;
}

std::size_t UpdateWindow::home_of(std::uint64_t key) const noexcept {
  return mix(key ^ seed_) & (places_.size() - 1);
}

UpdateWindow::Tracked* UpdateWindow::track(std::uint64_t key) noexcept {
  const std::size_t mask = places_.size() - 1;
  for (std::size_t at = home_of(key);; at = (at + 1) & mask) {
    const std::uint32_t place = places_[at];
    if (place != 0) {
      if (tracked_[place - 1].key == key) return &tracked_[place - 1];
      continue;
    }
    if (tracked_.size() == most_tracked_) return nullptr;
    tracked_.push_back({key, 0, 0, 0, false});
    places_[at] = static_cast<std::uint32_t>(tracked_.size());
    return &tracked_.back();
  }
}

UpdateWindow::Decision UpdateWindow::decide(const Operation& operation, Tracked*& tracked) noexcept {
  tracked = track(operation.what.key);
  if (tracked == nullptr) {
    ++untracked_;
    return Decision::kNow;
  }
  if (tracked->held != 0) {
    const std::size_t place = tracked->held - 1;
    const Held there = pending_[place];
    if (newer(operation.what.version, operation.what.erase, there.version, there.erase)) {
      keep(place, operation);
      // As in the cache, a row that comes without a score keeps that of the row it replaces.
      float& score = pending_[place].score;
      if (!there.erase && std::isnan(score)) score = there.score;
    }
    ++coalesced_;
    return Decision::kNotNow;
  }
  if (tracked->count < options_.limit) {
    ++tracked->count;
    return Decision::kNow;
  }
  if (tracked->known && !newer(operation.what.version, operation.what.erase, tracked->version, false)) {
    ++stale_;  // a replay need not take up a place
    return Decision::kNotNow;
  }
  if (size_ == pending_.size()) make_room();
  const std::size_t place = (first_ + size_) % pending_.size();
  ++size_;
  pending_now_.store(size_, std::memory_order_relaxed);
  keep(place, operation);
  tracked->held = static_cast<std::uint32_t>(place) + 1;
  ++held_;
  return Decision::kNotNow;
}

void UpdateWindow::keep(std::size_t place, const Operation& operation) noexcept {
  pending_[place] = operation.what;
  if (!operation.what.erase) std::memcpy(row(place), operation.row, dim_ * sizeof(float));
}

// The one held longest is written by itself: whoever is gathering goes on.
void UpdateWindow::make_room() noexcept {
  const Held& held = pending_[first_];
  if (held.erase) {
    const std::size_t done =
        cache_.erase({&held.key, 1}, &held.version, std::isnan(held.expires) ? nullptr : &held.expires);
    (done != 0 ? applied_ : stale_) += 1;
  } else {
    Written result = Written::kStale;
    const RowBatch one{{&held.key, 1}, row(first_),   static_cast<std::ptrdiff_t>(dim_),
                       &held.score,    &held.version, &held.expires};
    const std::size_t done = cache_.write(one, Write::kUpdate, &result);
    (done != 0 ? applied_ : result == Written::kStale ? stale_ : rejected_) += 1;
  }
  track(held.key)->held = 0;
  first_ = next(first_);
  --size_;
  ++early_;
}

void UpdateWindow::roll(double now) noexcept {
  const double which = std::floor(now / options_.interval);
  if (options_.after_expiry || which == interval_) return;
  interval_ = which;
  const std::size_t begin = first_, count = size_;
  flush_held();
  // What was applied just now is the first of this interval.
  std::size_t at = begin;
  std::size_t kept = begin;
  std::size_t applied = 0;
  for (std::size_t i = 0; i < count; ++i, at = next(at)) {
    const Held held = pending_[at];
    const Tracked* tracked = track(held.key);
    if (!tracked->known || tracked->version != held.version) continue;
    pending_[kept] = held;
    kept = next(kept);
    ++applied;
  }
  if (!tracked_.empty()) {
    tracked_.clear();
    std::fill(places_.begin(), places_.end(), 0U);
  }
  at = begin;
  for (std::size_t i = 0; i < applied; ++i, at = next(at)) {
    Tracked* const tracked = track(pending_[at].key);
    tracked->count = 1;
    tracked->version = pending_[at].version;
    tracked->known = true;
  }
}

std::size_t UpdateWindow::flush_held() noexcept {
  std::size_t applied = 0;
  while (size_ != 0) {
    const std::size_t some = std::min(size_, kChunk);
    for (const bool erase : {false, true}) {
      for (const bool with_expires : {true, false}) {
        if (!erase && !with_expires) continue;  // rows that have none say so one by one
        gathered_ = 0;
        std::size_t at = first_;
        for (std::size_t i = 0; i < some; ++i, at = next(at)) {
          const Held& held = pending_[at];
          if (held.erase != erase || (erase && std::isnan(held.expires) == with_expires)) continue;
          Tracked* const tracked = track(held.key);
          tracked->held = 0;
          gather({held, row(at)}, tracked);
        }
        applied += send(erase);
      }
    }
    first_ = (first_ + some) % pending_.size();
    size_ -= some;
  }
  pending_now_.store(0, std::memory_order_relaxed);
  return applied;
}

void UpdateWindow::gather(const Operation& operation, Tracked* tracked) noexcept {
  const std::size_t at = gathered_++;
  keys_[at] = operation.what.key;
  versions_[at] = operation.what.version;
  expires_[at] = operation.what.expires;
  scores_[at] = operation.what.score;
  owners_[at] = tracked;
  if (!operation.what.erase) std::memcpy(&gathered_rows_[at * dim_], operation.row, dim_ * sizeof(float));
}

std::size_t UpdateWindow::send(bool erase) noexcept {
  if (gathered_ == 0) return 0;
  const std::size_t applied = erase ? send_erases() : send_updates();
  applied_ += applied;
  return applied;
}

std::size_t UpdateWindow::send_updates() noexcept {
  const RowBatch batch{
      {keys_.data(), gathered_}, gathered_rows_.data(), static_cast<std::ptrdiff_t>(dim_), scores_.data(),
      versions_.data(),          expires_.data()};
  const std::size_t applied = cache_.write(batch, Write::kUpdate, results_.data());
  for (std::size_t i = 0; i < gathered_; ++i) {
    const Written result = results_[i];
    Tracked* const owner = owners_[i];
    if (result == Written::kStale || result == Written::kRejected) {
      ++(result == Written::kStale ? stale_ : rejected_);
      if (owner != nullptr && owner->count != 0) --owner->count;  // what was refused is no application
    } else if (owner != nullptr && (!owner->known || versions_[i] > owner->version)) {
      owner->version = versions_[i];
      owner->known = true;
    }
  }
  return applied;
}

// The cache does not say which of several deletions were refused; they count as applied to their ids then.
std::size_t UpdateWindow::send_erases() noexcept {
  const std::size_t applied = cache_.erase({keys_.data(), gathered_}, versions_.data(),
                                           std::isnan(expires_[0]) ? nullptr : expires_.data());
  stale_ += gathered_ - applied;
  for (std::size_t i = 0; applied == gathered_ && i < gathered_; ++i) {
    Tracked* const owner = owners_[i];
    if (owner == nullptr || (owner->known && versions_[i] <= owner->version)) continue;
    owner->version = versions_[i];
    owner->known = true;
  }
  return applied;
}

}  // namespace pepnet::cache
