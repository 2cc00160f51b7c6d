#include "threads/huge_buffer.h"

#include <cstdint>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>

#include "check.h"

namespace pepnet::test {
namespace {

static_assert(!std::is_copy_constructible_v<HugeBuffer> && !std::is_copy_assignable_v<HugeBuffer>);
static_assert(std::is_nothrow_move_constructible_v<HugeBuffer> &&
              std::is_nothrow_move_assignable_v<HugeBuffer>);

void check_zeroed_and_writable(HugeBuffer& buffer) {
  for (std::size_t i = 0; i < buffer.size(); i += i + 64 < buffer.size() ? 64U : 1U) {
    CHECK(buffer.data()[i] == std::byte{0});
    buffer.data()[i] = std::byte{7};
  }
}

bool refused(std::size_t bytes) {
  try {
    const HugeBuffer buffer(bytes);
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}

}  // namespace

void huge_buffer() {
  constexpr std::size_t kHuge = HugeBuffer::kAlignment;
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{4'096}, kHuge - 1, kHuge, kHuge + 1, 5 * kHuge + 77}) {
    for (int round = 0; round < 3; ++round) {
      HugeBuffer buffer(bytes);
      CHECK(buffer.size() == bytes);
      CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % kHuge == 0);
      CHECK(buffer.mapped_bytes() >= bytes && buffer.mapped_bytes() < bytes + kHuge);
      check_zeroed_and_writable(buffer);
    }
  }
  const HugeBuffer none;
  const HugeBuffer zero(0);
  CHECK(none.data() == nullptr && none.size() == 0 && zero.data() == nullptr && zero.mapped_bytes() == 0);
  CHECK(refused(std::numeric_limits<std::size_t>::max()) && refused(std::size_t{1} << 62));

  HugeBuffer first(100);
  std::byte* const place = first.data();
  place[99] = std::byte{42};
  HugeBuffer second(std::move(first));
  CHECK(second.data() == place && second.size() == 100);
  HugeBuffer third(kHuge);
  third = std::move(second);
  CHECK(third.data() == place && third.size() == 100 && third.data()[99] == std::byte{42});
  third = HugeBuffer();
  CHECK(third.data() == nullptr && third.size() == 0);
}

}  // namespace pepnet::test
