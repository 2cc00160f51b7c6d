// The parts of CUDA that kernels use. Without nvcc the same sources compile for the CPU, where tests run them
// thread by thread: tests/kernels/cpp/cuda_emulated.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define PEPNET_UNROLL _Pragma("unroll")
#define PEPNET_NO_UNROLL _Pragma("unroll 1")
// A GPU faults at an address that is no multiple of what is read or written there at once; so do tests.
#define PEPNET_ALIGNED(address, bytes)
#else
#include "cuda_emulated.h"
#define PEPNET_UNROLL
#define PEPNET_NO_UNROLL
#define PEPNET_ALIGNED(address, bytes) pepnet::cuda_emulated::expect_aligned(address, bytes)
#endif

#include "cuda/numbers.h"
