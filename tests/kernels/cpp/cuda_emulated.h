// CUDA's threads on one CPU thread: kernels compile as they are, and run as fibers that take turns at
// barriers.
//
// What it finds that a GPU may hide: shared memory that is read before it is written (every block begins with
// NaNs), a barrier that not all threads of a block reach, and results that depend on the order of threads (it
// is drawn anew for each stretch between barriers). What it cannot find: whether anything is fast.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

void __syncthreads();
void __syncwarp();
inline unsigned atomicAdd(unsigned* at, unsigned value) {
  const unsigned before = *at;
  *at += value;
  return before;
}

namespace pepnet::cuda_emulated {

// Runs `body` for every thread of every block. `seed` draws the order of threads. Ends the process with a
// message when threads wait for each other in vain, and when one of an `early` kernel, which may begin before
// the last is done, does not wait for that.
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body,
            std::uint64_t seed, bool early);

// The block's shared memory.
std::byte* shared();
// How many bytes of it there are.
std::size_t shared_bytes();

// What the lanes of a warp show each other: each writes `bytes` of its own, then all see all. Lane i's are at
// i·bytes.
const std::byte* exchange(const void* mine, std::size_t bytes);

// What a lane has shown.
template <class Value>
Value shown_by(const std::byte* shown, std::size_t lane) {
  Value value;
  std::memcpy(&value, shown + lane * sizeof value, sizeof value);
  return value;
}

alignas(16) inline constexpr std::byte zeros[16] = {};

// Ends the process with a message unless `lanes` are all of a warp and `lane` is one of it: what a GPU makes
// of others is not emulated.
void expect_in_warp(unsigned lanes, unsigned lane = 0);

// Memory of the device, of which alone is copied below.
void allocated(const void* begin, std::size_t bytes);
void freed(const void* begin);

// An asynchronous copy to shared memory. Ends the process with a message where it would read what was not
// allocated. Of some threads, drawn anew for each block, it happens at once, of
// the others when it is waited for.
void copy_later(void* to, const void* from, std::size_t bytes);
void commit();
void wait_for_all_but(unsigned groups);

void wait_for_last();

// Ends the process with a message where `address` is no multiple of `bytes`.
void expect_aligned(const void* address, std::size_t bytes);

}  // namespace pepnet::cuda_emulated

// CUDA's functions of a warp, all of whose lanes take part, and of numbers.

template <class Value>
Value __shfl_sync(unsigned lanes, Value value, int lane) {
  using namespace pepnet::cuda_emulated;
  expect_in_warp(lanes, static_cast<unsigned>(lane));
  return shown_by<Value>(exchange(&value, sizeof value), static_cast<std::size_t>(lane));
}

template <class Value>
Value __shfl_xor_sync(unsigned lanes, Value value, int distance) {
  return __shfl_sync(lanes, value, static_cast<int>(threadIdx.x % 32) ^ distance);
}

inline unsigned __ballot_sync(unsigned lanes, bool value) {
  pepnet::cuda_emulated::expect_in_warp(lanes);
  const std::byte mine{value};
  const std::byte* const shown = pepnet::cuda_emulated::exchange(&mine, 1);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (shown[lane] != std::byte{}) bits |= 1U << lane;
  return bits;
}

inline int __popc(unsigned word) { return std::popcount(word); }
inline float __uint_as_float(unsigned word) { return std::bit_cast<float>(word); }
