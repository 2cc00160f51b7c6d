#include "threads/huge_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <limits>
#include <new>

#include "cpu/round_up.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace pepnet {
namespace {

// Address sanitizers do not watch mappings: what lies behind the bytes asked for is closed by hand.
void watch_end([[maybe_unused]] std::byte* end, [[maybe_unused]] std::size_t bytes,
               [[maybe_unused]] bool closed) {
#ifdef __SANITIZE_ADDRESS__
  if (closed) {
    ASAN_POISON_MEMORY_REGION(end, bytes);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(end, bytes);
  }
#endif
}

}  // namespace

HugeBuffer::HugeBuffer(std::size_t bytes, Tail tail) {
  if (bytes == 0) return;
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
  // A small buffer keeps small pages: a huge one would cost it 2 MiB of memory.
  const bool huge = bytes >= kAlignment;
  const std::size_t wanted = round_up(bytes, huge && tail == Tail::kHuge ? kAlignment : kPage);
  void* const map =
      mmap(nullptr, wanted + kAlignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();

  // Gives back what lies before and after the aligned part.
  std::byte* const begin = static_cast<std::byte*>(map);
  const std::size_t offset = reinterpret_cast<std::uintptr_t>(map) % kAlignment;
  const std::size_t before = offset == 0 ? 0 : kAlignment - offset;
  if (before != 0) (void)munmap(begin, before);
  if (before != kAlignment) (void)munmap(begin + before + wanted, kAlignment - before);
  data_ = {begin + before, Unmap{bytes, wanted}};
  watch_end(data() + bytes, wanted - bytes, true);
#ifdef MADV_HUGEPAGE
  // A hint: a kernel built or set up without huge pages refuses, and ordinary ones serve.
  if (huge) (void)madvise(data(), wanted, MADV_HUGEPAGE);
#endif
}

void HugeBuffer::Unmap::operator()(std::byte* data) const noexcept {
  watch_end(data + size, mapped - size, false);
  (void)munmap(data, mapped);
}

}  // namespace pepnet
