// What kernels need of CUDA. Without nvcc the same sources compile for the CPU, where tests run them thread
// by thread: tests/cpp/cuda_emulated.h.
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
#else
#include "cuda_emulated.h"
#define PEPNET_UNROLL
#define PEPNET_NO_UNROLL
#endif

#include "cuda/numbers.h"
