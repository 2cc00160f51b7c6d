// Operations that the threads of a block do together: the instructions of the GPU, and their emulation for
// tests on the CPU.
#pragma once

#include "cuda/device.h"

namespace pepnet::cuda {

// The block's dynamic shared memory as a T.
template <class T>
__device__ __forceinline__ T& shared_as() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char raw[];
  return *reinterpret_cast<T*>(raw);
#else
  return *reinterpret_cast<T*>(cuda_emulated::shared());
#endif
}

constexpr unsigned kAllLanes = 0xFFFF'FFFFU;  // of a warp

// Copies 16 bytes to shared memory while the thread goes on; both addresses are multiples of 16. Without
// `wanted` they become zeros, and `from` is not read.
__device__ __forceinline__ void copy_later(void* to, const void* from, bool wanted) {
  PEPNET_ALIGNED(to, 16);
  PEPNET_ALIGNED(from, 16);
#ifdef __CUDACC__
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
#else
  cuda_emulated::copy_later(to, wanted ? from : cuda_emulated::zeros, 16);
#endif
}

// kCount words of 4 bytes that are read at once.
template <std::size_t kCount>
struct alignas(4 * kCount) Words {
  std::uint32_t word[kCount];

  __device__ __forceinline__ float number(int i) const { return __uint_as_float(word[i]); }
};
template <std::size_t kCount>
__device__ __forceinline__ Words<kCount> words_at(const std::uint32_t* from) {
  PEPNET_ALIGNED(from, sizeof(Words<kCount>));
  return *reinterpret_cast<const Words<kCount>*>(from);
}

// From here on the next kernel of the stream may begin, where it is launched so (runtime.h), on
// multiprocessors that have room.
__device__ __forceinline__ void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernels before this one are done, and what they wrote is there. Every thread of a kernel
// that may begin early does so before it reads what they write, writes, or ends: who waits for this kernel
// waits for them too.
__device__ __forceinline__ void wait_for_last() {
#ifndef __CUDACC__
  cuda_emulated::wait_for_last();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cuda_emulated::commit();
#endif
}

// Waits for this thread's copies but those of the last kGroups groups. A barrier makes them everybody's.
template <int kGroups>
__device__ __forceinline__ void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  cuda_emulated::wait_for_all_but(kGroups);
#endif
}

// kCount 8×8 blocks of 2-byte numbers from shared memory (PTX: ldmatrix): lane 8·b + r names row r of block
// b, and gets, of each block, the word lane % 4 of row lane / 4.
template <std::size_t kCount>
__device__ __forceinline__ void read_blocks(std::uint32_t (&to)[kCount], const std::uint32_t* row) {
  static_assert(kCount == 2 || kCount == 4);
  PEPNET_ALIGNED(row, 16);
#ifdef __CUDACC__
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kCount == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(address)
                 : "memory");
  }
#else
  const std::byte* const shown = cuda_emulated::exchange(&row, sizeof row);
  const std::size_t lane = threadIdx.x % 32;
  for (std::size_t block = 0; block < kCount; ++block)
    to[block] = cuda_emulated::shown_by<const std::uint32_t*>(shown, 8 * block + lane / 4)[lane % 4];
#endif
}

// d += a·b for a 16×16 a and a 16×8 b of a warp, in float32 (PTX: mma.m16n8k16, row.col). With g = lane / 4
// and t = lane % 4, each register holding two neighbours in k: a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3
// (g + 8, 2t + 8); b0 (2t, g), b1 (2t + 8, g); d0, d1 (g, 2t and 2t + 1), d2, d3 (g + 8, likewise).
__device__ __forceinline__ void multiply_add(float (&d)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  struct Shown {
    std::uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  const std::byte* const shown = cuda_emulated::exchange(&mine, sizeof mine);
  const auto half = [](std::uint32_t pair, unsigned k) {
    return widen(bf16{static_cast<std::uint16_t>(pair >> (k % 2 * 16))});
  };
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      const float left =
          half(cuda_emulated::shown_by<Shown>(shown, row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2], k);
      const float right = half(cuda_emulated::shown_by<Shown>(shown, column * 4 + k % 8 / 2).b[k / 8], k);
      d[i] += left * right;
    }
  }
#endif
}

__device__ __forceinline__ std::uint32_t bits_of(std::uint32_t word) {
  return static_cast<std::uint32_t>(__popc(word));
}

// The sum over a warp's lanes, in every lane, added in the same order.
__device__ __forceinline__ float sum_of_lanes(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// The larger of two; NaN if either is.
__device__ __forceinline__ float larger(float a, float b) { return a > b || a != a ? a : b; }

// The largest of a warp's lanes, in every lane; NaN if any is.
__device__ __forceinline__ float largest_of_lanes(float value) {
  for (int distance = 16; distance > 0; distance /= 2)
    value = larger(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

}  // namespace pepnet::cuda
