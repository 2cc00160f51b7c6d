// A model on a device: weights once, and for each call under way a context with its buffers and a graph for
// each bucket. And what libpepnet_cuda.so shows: the extension loads it when somebody asks for a GPU. Both
// are compiled from these headers; objects of C++ and exceptions go between them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cuda/device_rows.h"
#include "cuda/feature_words.h"
#include "cuda/program.h"
#include "cuda/tuning.h"

namespace pepnet::cuda {

// Batches run with as many rows as the smallest bucket that holds them; larger ones in pieces of the largest.
constexpr int kBuckets[] = {1, 8, 32, 64, 128, 256, 512, 1024, 2048};

struct CallInputs {
  const float* inputs[3] = {};  // by `Source`
  float* scores = nullptr;
  std::size_t rows = 0;
  // All of these are on the model's device: nothing is copied, and the call is put into `stream` (null: the
  // default one) and not waited for. Else all are on the host, and scores are there on return.
  bool on_device = false;
  void* stream = nullptr;
};

// Rows [first, first + rows) of some features, at most the largest bucket.
struct FeatureCall {
  std::span<const FieldView> fields;
  std::size_t first = 0, rows = 0;
  float* scores = nullptr;           // [·, tasks] of all rows
  std::uint32_t* unknown = nullptr;  // [fields] ids that got the default row are added; not those that lack
};

// Columns of fields of rows that the device lacks.
struct Patches {
  std::span<const std::uint32_t> at;    // row · fields + field
  std::span<const std::uint32_t> from;  // where in `values` the field's columns begin
  std::span<const float> values;
};

// A call that waits for rows that the device lacks. Its destruction ends the call.
struct PendingScores {
  std::vector<std::uint32_t> lacking;  // row · fields + field, ascending
  std::uint64_t generation = 0;        // of the rows when they were asked

  virtual ~PendingScores() = default;
  // Once, whether it succeeds or throws. Throws CudaError, std::logic_error when called again.
  virtual void finish(const FeatureCall& call, const Patches& patches) = 0;
};

struct ModelFacts {
  std::size_t weight_bytes;
  std::vector<StepCost> costs;
  TilesByRows tiles;
};

class Model {
 public:
  virtual ~Model() = default;
  // Any number of threads may call at once. Throws CudaError, std::bad_alloc.
  virtual void run(const CallInputs& call) = 0;
  virtual ModelFacts facts() const = 0;

  // From here on features can be scored. Once, before any call. Throws std::invalid_argument.
  virtual void attach(std::shared_ptr<Rows> rows, std::vector<FieldSpec> fields) = 0;
  // Scores features. Returns null when all scores are written, else a call that has to be finished.
  virtual std::unique_ptr<PendingScores> score(const FeatureCall& call) = 0;
};

// The functions of the library.
struct Library {
  int interface_number;            // kInterface of the library; first, to be read of other versions too
  bool emulated;                   // the library of tests, which runs kernels on the CPU
  int (*device_count)();           // throws CudaError where CUDA does not start
  DeviceInfo (*device_info)(int);  // of a device
  // Throws CudaError, std::length_error for what does not fit (see Program). `graphs`: launches are recorded
  // once for each bucket. `tile`: of all products; else they are measured.
  std::unique_ptr<Model> (*make_model)(const network::Network& network, const Tensors& tensors,
                                       Precision precision, int device, bool graphs,
                                       std::optional<Tile> tile);
  std::unique_ptr<Rows> (*make_rows)(int device, const std::vector<Rows::Width>& widths, bool by_score);
};

// Counts up with every change of what the extension uses of these headers, and of what else crosses the
// boundary: `network::Network` and `Tensors`.
constexpr int kInterface = 8;
// The function by name: `const Library* pepnet_cuda_library()`.
constexpr const char* kLibraryFunction = "pepnet_cuda_library";

}  // namespace pepnet::cuda
