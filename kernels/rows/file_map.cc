#include "rows/file_map.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <stdexcept>
#include <system_error>

namespace pepnet {

// What the handler reads. Slots are never freed: it may look at one at any time. One that is free has no
// end.
struct FileMap::Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> faulted{false};
  std::atomic<std::int64_t> accepted_ns{0};
  bool taken = false;
  Slot* next = nullptr;
};

struct FileMapHandler {
  static inline std::atomic<FileMap::Slot*> slots{nullptr};
  static inline std::mutex mutex;           // of whoever takes or frees a slot
  static inline struct sigaction before{};  // what ours was put in front of last
  static inline struct sigaction first{};   // and first
  static inline bool installed = false;
  static inline std::atomic<bool> passed{false};
  static inline std::size_t page = 4096;

  static void on_bus_error(int signal, siginfo_t* info, void* context) noexcept {
    const int error = errno;
    const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
    // Only what the kernel says of an address: a signal that was sent has none.
    for (FileMap::Slot* slot = info->si_code == BUS_ADRERR ? slots.load(std::memory_order_acquire) : nullptr;
         slot != nullptr; slot = slot->next) {
      if (at < slot->begin.load(std::memory_order_acquire) || at >= slot->end.load(std::memory_order_acquire))
        continue;
      void* const where = reinterpret_cast<void*>(at & ~(std::uintptr_t{page} - 1));
      if (mmap(where, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) break;
      slot->faulted.store(true, std::memory_order_release);
      errno = error;
      return;
    }
    errno = error;
    pass_on(signal, info, context);
  }

  static void pass_on(int signal, siginfo_t* info, void* context) noexcept {
    const bool sent = info->si_code <= 0;
    // Who stands behind ours may pass on to who stood there when it came: to ours again, where ours had
    // stood in front of another. What comes back goes to that one, or the two would call each other.
    const struct sigaction& next = passed.exchange(true) ? first : before;
    // Both kinds of handler lie in one place: either has these values where there is none.
    const bool ignored = next.sa_handler == SIG_IGN;
    if (next.sa_handler != SIG_DFL && !ignored) {
      if ((next.sa_flags & SA_SIGINFO) != 0)
        next.sa_sigaction(signal, info, context);
      else
        next.sa_handler(signal);
      return;
    }
    if (sent && ignored) return;
    struct sigaction default_action{};
    default_action.sa_handler = SIG_DFL;
    sigaction(signal, &default_action, nullptr);
    // A fault comes again when the handler returns; a signal that was sent does not.
    if (sent) raise(signal);
  }

  // Called with the mutex. Another library, or faulthandler, may have put its own in front since: then ours
  // goes in front of that.
  static void install() noexcept {
    struct sigaction now{};
    if (sigaction(SIGBUS, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
        now.sa_sigaction == &on_bus_error)
      return;
    page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    if (!installed) first = now;
    installed = true;
    before = now;
    struct sigaction ours{};
    ours.sa_sigaction = &on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, nullptr);
  }

  static FileMap::Slot* take(std::uintptr_t begin, std::size_t size) {
    const std::lock_guard<std::mutex> lock(mutex);
    FileMap::Slot* slot = slots.load(std::memory_order_relaxed);
    while (slot != nullptr && slot->taken) slot = slot->next;
    if (slot == nullptr) {
      slot = new FileMap::Slot;
      slot->next = slots.load(std::memory_order_relaxed);
      slots.store(slot, std::memory_order_release);
    }
    slot->taken = true;
    slot->faulted.store(false, std::memory_order_relaxed);
    slot->begin.store(begin, std::memory_order_relaxed);
    slot->end.store(begin + size, std::memory_order_release);
    install();
    return slot;
  }

  static void free(FileMap::Slot* slot) noexcept {
    const std::lock_guard<std::mutex> lock(mutex);
    slot->end.store(0, std::memory_order_release);
    slot->taken = false;
  }
};

namespace {

std::int64_t nanoseconds_of(const timespec& time) noexcept {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

bool identity_of(int descriptor, FileIdentity& found) noexcept {
  struct stat status{};
  if (fstat(descriptor, &status) != 0) return false;
  found = {static_cast<std::uint64_t>(status.st_dev),
           static_cast<std::uint64_t>(status.st_ino),
           static_cast<std::uint64_t>(status.st_size),
           static_cast<std::uint64_t>(status.st_nlink),
           nanoseconds_of(status.st_mtim),
           nanoseconds_of(status.st_ctim)};
  return true;
}

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

}  // namespace

FileMap::FileMap(int descriptor) {
  if (!identity_of(descriptor, identity_)) fail("fstat");
  size_ = static_cast<std::size_t>(identity_.size);
  if (size_ == 0) throw std::invalid_argument("descriptor: expected a file with content, got an empty one");
  descriptor_ = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (descriptor_ < 0) fail("fcntl");
  void* const mapped = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    close(descriptor_);
    errno = error;
    fail("mmap");
  }
  data_ = static_cast<std::byte*>(mapped);
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  // Rows are read at random, and with 4 KiB pages nearly each of them misses the TLB too: a lookup takes 1.3
  // times as long when its rows come from memory, 3 times when they are in the L3 cache. This is advice,
  // followed where the file system has large pages and the file is not cached in small ones yet. A file too
  // large for memory is better read in small pieces.
  const long pages = sysconf(_SC_PHYS_PAGES);
  if (pages > 0 && size_ <= static_cast<std::size_t>(pages) * page / 2) madvise(mapped, size_, MADV_HUGEPAGE);
  slot_ = FileMapHandler::take(reinterpret_cast<std::uintptr_t>(data_), (size_ + page - 1) / page * page);
  accept(identity_.changed_ns);
}

FileMap::~FileMap() {
  // Free for the handler first: another map may get the same addresses at once.
  FileMapHandler::free(slot_);
  munmap(data_, size_);
  close(descriptor_);
}

FileProblem FileMap::problem() const noexcept {
  if (slot_->faulted.load(std::memory_order_acquire)) return FileProblem::kUnreadable;
  FileIdentity now{};
  if (!identity_of(descriptor_, now)) return FileProblem::kUnreadable;
  if (now.size != identity_.size) return FileProblem::kResized;
  if (now.modified_ns != identity_.modified_ns) return FileProblem::kWritten;
  // A file without a name cannot be opened any more: losing it is what changed, as after a replacement.
  if (now.links == 0) return FileProblem::kNone;
  const bool same = now.changed_ns == slot_->accepted_ns.load(std::memory_order_relaxed);
  return same ? FileProblem::kNone : FileProblem::kTouched;
}

std::int64_t FileMap::changed_ns() const noexcept {
  FileIdentity now{};
  return identity_of(descriptor_, now) ? now.changed_ns : -1;
}

void FileMap::accept(std::int64_t changed_ns) noexcept {
  slot_->accepted_ns.store(changed_ns, std::memory_order_relaxed);
}

}  // namespace pepnet
