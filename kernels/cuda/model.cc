#include "cuda/model.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace pepnet::cuda {

int bucket_of(std::size_t rows) {
  for (const int bucket : kBuckets) {
    if (rows <= static_cast<std::size_t>(bucket)) return bucket;
  }
  return *std::rbegin(kBuckets);
}

namespace {

// Inputs and scores at addresses that stay, for a graph keeps them; and scratch.
template <class T>
class Context {
 public:
  Context(const Program<T>& program, const std::byte* weights, bool graphs)
      : program_(program), weights_(weights), graphs_(graphs) {}

  void run(const CallInputs& call, std::size_t first, int rows) {
    const DenseConfig& config = program_.config();
    const int bucket = bucket_of(static_cast<std::size_t>(rows));
    Bucket& place = at(bucket);
    put(place.addresses.general, call.general, first, rows, config.general);
    put(place.addresses.domain, call.domain, first, rows, config.use_epnet ? config.domain : 0);
    put(place.addresses.prior, call.prior, first, rows, config.use_ppnet ? config.prior : 0);
    if (place.graph) {
      stream_.enqueue(*place.graph);
    } else {
      for (const Launch<T>& launch : place.launches) stream_.enqueue<T>(launch);
    }
    stream_.copy(call.scores + first * config.tasks, place.addresses.scores,
                 static_cast<std::size_t>(rows) * config.tasks * sizeof(float));
  }

  Stream& stream() { return stream_; }

 private:
  struct Bucket {
    Allocation memory;
    Addresses addresses;
    std::vector<Launch<T>> launches;
    std::unique_ptr<Stream::Graph> graph;
  };

  void put(const float* to, const float* from, std::size_t first, int rows, std::size_t width) {
    // The addresses are those of our own memory: `Addresses` has them const for the kernels.
    stream_.copy(const_cast<float*>(to), from == nullptr ? nullptr : from + first * width,
                 static_cast<std::size_t>(rows) * width * sizeof(float));
  }

  Bucket& at(int bucket) {
    const auto found = buckets_.find(bucket);
    if (found != buckets_.end()) return found->second;
    const DenseConfig& config = program_.config();
    const auto matrix = [&](std::size_t width) {
      return (width * sizeof(float) * static_cast<std::size_t>(bucket) + 255) / 256 * 256;
    };
    const std::size_t general = matrix(config.general), domain = matrix(config.domain),
                      prior = matrix(config.prior);
    const std::size_t scores = matrix(config.tasks);
    Bucket made;
    made.memory =
        Allocation(general + domain + prior + scores + program_.scratch_bytes(bucket), Memory::device);
    std::byte* next = made.memory.data();
    const auto take = [&](std::size_t bytes) { return std::exchange(next, next + bytes); };
    made.addresses.weights = weights_;
    made.addresses.general = reinterpret_cast<const float*>(take(general));
    made.addresses.domain = reinterpret_cast<const float*>(take(domain));
    made.addresses.prior = reinterpret_cast<const float*>(take(prior));
    made.addresses.scores = reinterpret_cast<float*>(take(scores));
    made.addresses.scratch = next;
    made.addresses.rows = bucket;
    made.launches = program_.bind(made.addresses);
    if (graphs_) made.graph = stream_.template capture<T>(made.launches);
    return buckets_.emplace(bucket, std::move(made)).first->second;
  }

  const Program<T>& program_;
  const std::byte* weights_;
  bool graphs_;
  Stream stream_;
  std::map<int, Bucket> buckets_;
};

template <class T>
class ModelOf final : public Model {
 public:
  ModelOf(const DenseConfig& config, const Tensors& tensors, int device, bool graphs)
      : program_(config, tensors), device_(device), graphs_(graphs) {
    use_device(device_);
    weights_ = Allocation(program_.weights().size(), Memory::device);
    Stream stream;
    stream.copy(weights_.data(), program_.weights().data(), program_.weights().size());
    stream.wait();
  }

  void run(const CallInputs& call) override {
    use_device(device_);
    std::unique_ptr<Context<T>> context = take();
    Stream& stream = context->stream();
    const std::size_t most = static_cast<std::size_t>(*std::rbegin(kBuckets));
    if (call.has_stream) stream.wait_for(call.stream);
    for (std::size_t first = 0; first < call.rows; first += most)
      context->run(call, first, static_cast<int>(std::min(most, call.rows - first)));
    if (call.has_stream) {
      stream.let_wait(call.stream);
    } else {
      stream.wait();
    }
    give_back(std::move(context));  // a context that failed is not used again
  }

  ModelFacts facts() const override { return {program_.weights().size(), program_.costs()}; }

 private:
  std::unique_ptr<Context<T>> take() {
    {
      const std::lock_guard guard(lock_);
      if (!free_.empty()) {
        std::unique_ptr<Context<T>> context = std::move(free_.back());
        free_.pop_back();
        return context;
      }
    }
    return std::make_unique<Context<T>>(program_, weights_.data(), graphs_);
  }
  void give_back(std::unique_ptr<Context<T>> context) {
    const std::lock_guard guard(lock_);
    free_.push_back(std::move(context));
  }

  Program<T> program_;
  int device_;
  bool graphs_;
  Allocation weights_;
  std::mutex lock_;
  std::vector<std::unique_ptr<Context<T>>> free_;
};

}  // namespace

std::unique_ptr<Model> make_model(const DenseConfig& config, const Tensors& tensors, bool as_bf16, int device,
                                  bool graphs) {
  if (as_bf16) return std::make_unique<ModelOf<bf16>>(config, tensors, device, graphs);
  return std::make_unique<ModelOf<float>>(config, tensors, device, graphs);
}

}  // namespace pepnet::cuda
