// A model on a device: weights once, and for each call under way a context with its buffers and a graph for
// each bucket.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/program.h"
#include "cuda/runtime.h"

namespace pepnet::cuda {

// Batches run with as many rows as the smallest bucket that holds them; larger ones in pieces of the largest.
constexpr int kBuckets[] = {1, 8, 32, 64, 128, 256, 512, 1024, 2048};

// The bucket for so many rows, at most the largest.
int bucket_of(std::size_t rows);

// Any of these is on the host, or on the device that the model is on.
struct CallInputs {
  const float *general = nullptr, *domain = nullptr, *prior = nullptr;
  float* scores = nullptr;
  std::size_t rows = 0;
  bool has_stream = false;  // the call is put into `stream` (null: the default one) and not waited for
  void* stream = nullptr;
};

struct ModelFacts {
  std::size_t weight_bytes;
  std::vector<StepCost> costs;
};

class Model {
 public:
  virtual ~Model() = default;
  // Any number of threads may call at once. Throws CudaError, std::bad_alloc.
  virtual void run(const CallInputs& call) = 0;
  virtual ModelFacts facts() const = 0;
};

// Throws std::invalid_argument naming the tensor or flag that is wrong, CudaError. `graphs`: launches are
// recorded once for each bucket.
std::unique_ptr<Model> make_model(const DenseConfig& config, const Tensors& tensors, bool bf16, int device,
                                  bool graphs);

}  // namespace pepnet::cuda
