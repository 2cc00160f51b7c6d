// The C interface of libpepnet_cuda, which is loaded on demand by a process that may have no GPU.
//
// Functions that can fail return null or a number below 0, and `pepnet_cuda_error` says why, for the thread
// that called.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PEPNET_CUDA_ABI 3

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
  const float *general, *domain, *prior;  // [rows, ·]
  float* scores;                          // [rows, tasks]
  int64_t rows;
  // Not 0: all of these are on the model's device, and the work is put into `stream` and not waited for.
  int32_t on_device;
  void* stream;
};

// A table of rows of one width on the device.
struct PepnetWidth {
  int64_t width, entries;
};

// Distinct keys and what is known of them.
struct PepnetNewRows {
  int64_t width, count;
  const uint64_t* keys;
  const float* rows;             // [count, width]
  const uint8_t *absent, *high;  // [count] there is no row; it never makes room for others
  const float* scores;           // [count] NaN: none
  const double* expires;         // [count] Unix seconds
};

struct PepnetPlace {
  int32_t input, column;  // 0 general, 1 domain, 2 prior
};
struct PepnetField {
  int32_t kind;  // 0 id, 1 bag by mean, 2 bag by sum, 3 a number
  int32_t width;
  uint64_t number;  // of the table, in the top 16 bits
  const struct PepnetPlace* places;
  int64_t place_count;
};

// What a call has of a field.
struct PepnetFeature {
  const uint64_t* keys;
  const int64_t* offsets;  // [rows + 1] of bags
  const float* values;
  const float* default_row;  // [width] of ids that have none; not of numbers
  int64_t count;             // of keys or values
  int32_t shared;            // not 0: one row's, for all rows
};

// Rows [first, first + rows) of some features.
struct PepnetScoring {
  const struct PepnetFeature* features;
  int64_t feature_count, first, rows;
  float* scores;      // [·, tasks] of all rows
  uint32_t* unknown;  // [features] ids that got the default row are added
  // Set by the call. Null: all scores are there. Else they wait for what is lacking, row · features +
  // feature, until `pepnet_cuda_finish` or `pepnet_cuda_forget`.
  void* waiting;
  const uint32_t* lacking;
  int64_t lacking_count;
  uint64_t generation;  // of the rows when they were asked
};
struct PepnetPatches {
  const uint32_t *at, *from;  // [count] as in `lacking`; where in `values`
  int64_t count;
  const float* values;
  int64_t value_count;
};

int32_t pepnet_cuda_abi(void);
const char* pepnet_cuda_error(void);
// Not 0 for the library that tests build, which has no GPU and needs none.
int32_t pepnet_cuda_emulated(void);
// How many devices there are; below 0 when CUDA does not start.
int32_t pepnet_cuda_devices(void);
// Writes what a device is as JSON. Returns the length, or below 0.
int64_t pepnet_cuda_device(int32_t device, char* text, int64_t size);

// tile: 0 few, 1 middle, 2 many, 3 wide (shape.h), below 0: what is the fastest is measured.
void* pepnet_cuda_model(const struct PepnetConfig* config, const struct PepnetTensor* tensors,
                        int64_t tensor_count, int32_t bf16, int32_t device, int32_t graphs, int32_t tile);
void pepnet_cuda_free(void* model);
int32_t pepnet_cuda_run(void* model, const struct PepnetCall* call);
// Writes weight_bytes, the products' costs and, by bucket and launch, their tiles as JSON. Returns the
// length, or below 0.
int64_t pepnet_cuda_facts(void* model, char* text, int64_t size);

void* pepnet_cuda_rows(const struct PepnetWidth* widths, int64_t count, int32_t by_score, int32_t device);
void pepnet_cuda_rows_free(void* rows);
uint64_t pepnet_cuda_rows_generation(void* rows);
// 1: done; 0: keys were dropped since `generation`; below 0: an error.
int32_t pepnet_cuda_rows_insert(void* rows, const struct PepnetNewRows* given, uint64_t generation);
int32_t pepnet_cuda_rows_drop(void* rows, int64_t width, const uint64_t* keys, int64_t count);
int32_t pepnet_cuda_rows_clear(void* rows);
// Writes counters as JSON. Returns the length, or below 0.
int64_t pepnet_cuda_rows_stats(void* rows, char* text, int64_t size);

// The rows stay for as long as a model has them.
int32_t pepnet_cuda_attach(void* model, void* rows, const struct PepnetField* fields, int64_t count);
int32_t pepnet_cuda_score(void* model, struct PepnetScoring* call);
int32_t pepnet_cuda_finish(struct PepnetScoring* call, const struct PepnetPatches* patches);
void pepnet_cuda_forget(void* waiting);

#ifdef __cplusplus
}
#endif
