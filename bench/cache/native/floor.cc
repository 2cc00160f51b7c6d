// The floor: rows of known position, copied as fast as this machine can.
#include <cstring>
#include <new>

#include "peer.h"

namespace {

struct Dense {
  pepnet::HugeBuffer buffer;
  std::size_t row_bytes;

  const char* data() const noexcept { return reinterpret_cast<const char*>(buffer.data()); }
};

constexpr std::size_t kLine = 64;

inline void ask(const char* row, std::size_t bytes) noexcept {
  const auto skew = reinterpret_cast<std::uintptr_t>(row) % kLine;
  for (std::size_t at = 0; at < skew + bytes; at += kLine) __builtin_prefetch(row - skew + at, 0, 3);
}

// kBytes: the row's size as a constant, so that the copy is straight moves; 0: `bytes`. The body is compiled
// once for each instruction set below, and the compiler's memcpy takes the widest moves of that one.
template <std::size_t kBytes>
__attribute__((always_inline)) inline void gather(const Dense& dense, const std::int64_t* positions,
                                                  std::size_t count, char* out, std::ptrdiff_t stride,
                                                  std::size_t ahead) noexcept {
  const std::size_t bytes = kBytes != 0 ? kBytes : dense.row_bytes;
  const char* const data = dense.data();
  const auto row = [&](std::size_t i) { return data + static_cast<std::size_t>(positions[i]) * bytes; };
  const auto target = [&](std::size_t i) { return out + static_cast<std::ptrdiff_t>(i) * stride; };
  const std::size_t asked = ahead < count ? ahead : count;
  for (std::size_t i = 0; i < asked; ++i) ask(row(i), bytes);
  std::size_t i = 0;
  for (; i + asked < count; ++i) {
    ask(row(i + asked), bytes);
    std::memcpy(target(i), row(i), bytes);
  }
  for (; i < count; ++i) std::memcpy(target(i), row(i), bytes);
}

#define PEPNET_GATHER(name, isa)                                                                 \
  isa void name(const Dense& dense, const std::int64_t* positions, std::size_t count, char* out, \
                std::ptrdiff_t stride, std::size_t ahead) noexcept {                             \
    if (dense.row_bytes == 160) {                                                                \
      gather<160>(dense, positions, count, out, stride, ahead);                                  \
    } else {                                                                                     \
      gather<0>(dense, positions, count, out, stride, ahead);                                    \
    }                                                                                            \
  }

PEPNET_GATHER(gather16, )
#ifdef __x86_64__
PEPNET_GATHER(gather32, __attribute__((target("avx2"))))
PEPNET_GATHER(gather64, __attribute__((target("avx512f,avx512vl,prefer-vector-width=512"))))
#endif

}  // namespace

// A dense table of zeros on pages as the cache's: 2 MiB aligned, huge where the system gives them. Null: no
// memory.
PEPNET_PEER void* pepnet_dense_make(std::size_t rows, std::size_t dim) {
  try {
    return new Dense{pepnet::HugeBuffer(rows * dim * sizeof(float)), dim * sizeof(float)};
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

PEPNET_PEER float* pepnet_dense_data(void* dense) {
  return reinterpret_cast<float*>(static_cast<Dense*>(dense)->buffer.data());
}

PEPNET_PEER void pepnet_dense_free(void* dense) { delete static_cast<Dense*>(dense); }

// The widest move this CPU has, in bytes.
PEPNET_PEER std::uint32_t pepnet_widest() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return 64;
  if (__builtin_cpu_supports("avx2")) return 32;
#endif
  return 16;
}

// out[i] = table[positions[i]]; rows of `out` are `stride` floats apart. Positions are not checked. `ahead`
// rows are asked for before they are copied; `width` is 16, 32 or 64 bytes a move. Asking for the
// destination's lines too, or asking with the non-temporal hint, makes it slower by 1 to 3 ns a row.
PEPNET_PEER void pepnet_dense_gather(const void* dense, const std::int64_t* positions, std::size_t count,
                                     float* out, std::ptrdiff_t stride, std::size_t ahead,
                                     std::size_t width) {
  const auto& table = *static_cast<const Dense*>(dense);
  auto* const target = reinterpret_cast<char*>(out);
  const auto bytes = stride * static_cast<std::ptrdiff_t>(sizeof(float));
#ifdef __x86_64__
  if (width == 64) return gather64(table, positions, count, target, bytes, ahead);
  if (width == 32) return gather32(table, positions, count, target, bytes, ahead);
#else
  static_cast<void>(width);
#endif
  gather16(table, positions, count, target, bytes, ahead);
}
