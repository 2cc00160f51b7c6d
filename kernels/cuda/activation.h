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
__device__ __forceinline__ float finite_below(float x) { return x < -200.0F ? -200.0F : x; }

// Each takes x, the alpha of the call, and the slope of its column.
__device__ __forceinline__ float f_identity(float x, float, float) { return x; }
__device__ __forceinline__ float f_relu(float x, float, float) { return relu_of(x); }
__device__ __forceinline__ float f_sigmoid(float x, float, float) { return sigmoid_of(x); }
__device__ __forceinline__ float f_leaky_relu(float x, float alpha, float) {
  return x < 0.0F ? alpha * x : x;
}
__device__ __forceinline__ float f_prelu(float x, float, float slope) { return x < 0.0F ? slope * x : x; }
__device__ __forceinline__ float f_silu(float x, float, float) { return finite_below(x) * sigmoid_of(x); }
__device__ __forceinline__ float f_tanh(float x, float, float) { return tanhf(x); }
// By erfc: 1 + erf would cancel below zero.
__device__ __forceinline__ float f_gelu(float x, float, float) {
  return 0.5F * finite_below(x) * erfcf(-0.707106781F * x);
}
__device__ __forceinline__ float f_gelu_tanh(float x, float, float) {
  const float v = finite_below(x);
  return v * sigmoid_of(1.595769122F * (v + 0.044715F * v * v * v));
}
__device__ __forceinline__ float f_elu(float x, float alpha, float) {
  return x < 0.0F ? alpha * expm1f(x) : x;
}
__device__ __forceinline__ float f_selu(float x, float, float) {
  return x < 0.0F ? 1.75809934F * expm1f(x) : 1.05070098F * x;
}
__device__ __forceinline__ float f_hard_sigmoid(float x, float, float) {
  const float y = (x + 3.0F) / 6.0F;
  return y < 0.0F ? 0.0F : y > 1.0F ? 1.0F : y;
}
__device__ __forceinline__ float f_softplus(float x, float, float) {
  return relu_of(x) + log1pf(expf(-fabsf(x)));
}

// Its limit at -∞ is 0: -3 has the value already.
__device__ __forceinline__ float f_hard_silu(float x, float alpha, float slope) {
  return (x < -3.0F ? -3.0F : x) * f_hard_sigmoid(x, alpha, slope);
}

__device__ inline float activated(network::Function function, float x, float alpha, float slope) {
#define PEPNET_CASE(name, unused_alpha, unused_slope) \
  case network::Function::name:                       \
    return f_##name(x, alpha, slope);
  switch (function) { PEPNET_ACTIVATIONS(PEPNET_CASE) }
#undef PEPNET_CASE
  return x;
}

}  // namespace pepnet::cuda
