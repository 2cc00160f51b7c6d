// What libpepnet_cuda offers, in plain C: it is loaded when somebody asks for it, by a process that may have
// no GPU.
//
// Functions that can fail return null or a number below 0, and `pepnet_cuda_error` says why, for the thread
// that called.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PEPNET_CUDA_ABI 1

struct PepnetConfig {
  int64_t general, domain, prior, experts, tasks;
  int64_t gate_hidden;  // 0: what the tensors have; -1: the width that a gate multiplies
  const int64_t* layers;
  int64_t layer_count;
  const int64_t* towers;
  int64_t tower_count;
  int32_t by_task, input_gates, group_gates, epnet_general, use_epnet, use_ppnet;
  float gamma;
};

struct PepnetTensor {
  const char* name;
  const float* data;  // C-contiguous
  const int64_t* shape;
  int64_t ndim;
};

struct PepnetCall {
  const float *general, *domain, *prior;  // [rows, ·], on the host or the model's device
  float* scores;                          // [rows, tasks], likewise
  int64_t rows;
  int32_t has_stream;  // not 0: the work is put into `stream`, and not waited for
  void* stream;
};

int32_t pepnet_cuda_abi(void);
const char* pepnet_cuda_error(void);
// Not 0 for the library that tests build, which has no GPU and needs none.
int32_t pepnet_cuda_emulated(void);
// How many devices there are; below 0 when CUDA does not start.
int32_t pepnet_cuda_devices(void);
// Writes what a device is as JSON. Returns the length, or below 0.
int64_t pepnet_cuda_device(int32_t device, char* text, int64_t size);

void* pepnet_cuda_model(const struct PepnetConfig* config, const struct PepnetTensor* tensors,
                        int64_t tensor_count, int32_t bf16, int32_t device, int32_t graphs);
void pepnet_cuda_free(void* model);
int32_t pepnet_cuda_run(void* model, const struct PepnetCall* call);
// Writes weight_bytes and the products' costs as JSON. Returns the length, or below 0.
int64_t pepnet_cuda_facts(void* model, char* text, int64_t size);

#ifdef __cplusplus
}
#endif
