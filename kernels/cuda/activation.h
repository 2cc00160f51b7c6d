// The activations of docs/network.md, and γσ, of one number.
#pragma once

#include "cuda/device.h"
#include "network/activation.h"

namespace pepnet::cuda {

__device__ __forceinline__ float gate_of(float x, float gamma) {
#ifdef __CUDACC__
  return __fdividef(gamma, 1.0F + __expf(-x));
#else
  return gamma / (1.0F + std::exp(-x));
#endif
}

__device__ __forceinline__ float relu_of(float x) { return x < 0.0F ? 0.0F : x; }  // NaN stays

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0F / (1.0F + expf(-x)); }

// x·σ(x) and the like have the limit 0 at -∞, where the product would be none.
__device__ __forceinline__ float bounded_below(float x) { return x < -200.0F ? -200.0F : x; }

__device__ inline float activated(network::Function function, float x, float alpha, float slope) {
  using network::Function;
  switch (function) {
    case Function::identity:
      return x;
    case Function::relu:
      return relu_of(x);
    case Function::sigmoid:
      return sigmoid_of(x);
    case Function::leaky_relu:
      return x < 0.0F ? alpha * x : x;
    case Function::prelu:
      return x < 0.0F ? slope * x : x;
    case Function::silu:
      return bounded_below(x) * sigmoid_of(x);
    case Function::tanh:
      return tanhf(x);
    case Function::gelu:  // erfc, for 1 + erf would cancel below zero
      return 0.5F * bounded_below(x) * erfcf(-0.707106781F * x);
    case Function::gelu_tanh: {
      const float v = bounded_below(x);
      return v * sigmoid_of(1.595769122F * (v + 0.044715F * v * v * v));
    }
    case Function::elu:
      return x < 0.0F ? alpha * expm1f(x) : x;
    case Function::selu:
      return x < 0.0F ? 1.75809934F * expm1f(x) : 1.05070098F * x;
    case Function::hard_sigmoid: {
      const float y = (x + 3.0F) / 6.0F;
      return y < 0.0F ? 0.0F : y > 1.0F ? 1.0F : y;
    }
    case Function::softplus:
      return relu_of(x) + log1pf(expf(-fabsf(x)));
  }
  return x;
}

}  // namespace pepnet::cuda
