#include "cuda/model.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "cuda/context.h"

namespace pepnet::cuda {

namespace {

class DeviceModel final : public Model {
 public:
  DeviceModel(const network::Network& network, const Tensors& tensors, Precision precision, int device,
              bool graphs, std::optional<Tile> tile)
      : program_(network, tensors, precision), device_(device), graphs_(graphs) {
    const OnDevice here(device_);
    weights_ = Allocation(program_.weights().size(), Memory::device);
    Stream stream;
    stream.copy(weights_.data(), program_.weights().data(), program_.weights().size());
    stream.wait();
    tiles_ = tiles_for(program_, weights_.data(), device_, kBuckets, tile);
  }

  void run(const CallInputs& call) override {
    const OnDevice here(device_);
    // Before anything is made or freed, which would end the caller's capture.
    if (call.on_device && Stream(call.stream).being_captured())
      throw std::invalid_argument("stream: expected one that is not being captured");
    std::unique_ptr<Context> context = take();
    if (call.on_device) {
      context->run_on_device(call);
    } else {
      context->take_over();
      for (std::size_t first = 0; first < call.rows; first += kMostRows)
        context->run_from_host(call, first, std::min(kMostRows, call.rows - first));
    }
    give_back(std::move(context));  // a context that failed is not used again
  }

  ModelFacts facts() const override { return {program_.weights().size(), program_.costs(), tiles_}; }

  void attach(std::shared_ptr<Rows> given, std::vector<FieldSpec> fields) override {
    auto rows = std::static_pointer_cast<DeviceRows>(std::move(given));
    if (attached_) throw std::invalid_argument("rows: expected a model without any, got one that has them");
    if (rows->device() != device_) throw std::invalid_argument("rows: expected them on the model's device");
    for (const FieldSpec& field : fields)
      if (field.kind != FieldKind::dense) (void)rows->table(field.width);
    attached_ = std::make_unique<Attached>(Attached{std::move(rows), std::move(fields)});
  }

  std::unique_ptr<PendingScores> score(const FeatureCall& call) override {
    if (!attached_ || call.fields.size() != attached_->fields.size() || call.rows > kMostRows)
      throw std::invalid_argument("features: expected those of the fields that were attached, and at most " +
                                  std::to_string(kMostRows) + " rows");
    if (call.rows == 0) return nullptr;
    const OnDevice here(device_);
    const std::uint64_t generation = attached_->rows->generation();
    std::unique_ptr<Context> context = take();
    context->take_over();
    std::vector<std::uint32_t> lacking = context->run_features(call, at_once_.load());
    at_once_ = lacking.empty();
    if (lacking.empty()) {
      give_back(std::move(context));
      return nullptr;
    }
    auto pending = std::make_unique<Pending>(*this, std::move(context));
    pending->lacking = std::move(lacking);
    pending->generation = generation;
    return pending;
  }

 private:
  class Pending final : public PendingScores {
   public:
    Pending(DeviceModel& model, std::unique_ptr<Context> context)
        : model_(model), context_(std::move(context)) {}
    ~Pending() override {
      if (context_) model_.give_back(std::move(context_));
    }
    void finish(const FeatureCall& call, const Patches& patches) override {
      if (context_ == nullptr)
        throw std::logic_error("scores: expected some that wait, got those of a call that is over");
      const OnDevice here(model_.device_);
      std::unique_ptr<Context> context = std::move(context_);  // one that failed is not used again
      context->finish(call, patches);
      model_.give_back(std::move(context));
    }

   private:
    DeviceModel& model_;
    std::unique_ptr<Context> context_;
  };

  std::unique_ptr<Context> take() {
    {
      const std::lock_guard guard(lock_);
      if (!free_.empty()) {
        std::unique_ptr<Context> context = std::move(free_.back());
        free_.pop_back();
        return context;
      }
    }
    return std::make_unique<Context>(program_, tiles_, weights_.data(), graphs_, attached_.get());
  }
  void give_back(std::unique_ptr<Context> context) {
    const std::lock_guard guard(lock_);
    free_.push_back(std::move(context));
  }

  Program program_;
  int device_;
  bool graphs_;
  Allocation weights_;
  TilesByRows tiles_;
  std::unique_ptr<Attached> attached_;
  std::atomic<bool> at_once_{true};  // the last call lacked nothing
  std::mutex lock_;
  std::vector<std::unique_ptr<Context>> free_;
};

std::unique_ptr<Model> make_model(const network::Network& network, const Tensors& tensors,
                                  Precision precision, int device, bool graphs, std::optional<Tile> tile) {
  return std::make_unique<DeviceModel>(network, tensors, precision, device, graphs, tile);
}

std::unique_ptr<Rows> make_rows(int device, const std::vector<Rows::Width>& widths, bool by_score) {
  const OnDevice here(device);
  return std::make_unique<DeviceRows>(device, widths, by_score);
}

}  // namespace

}  // namespace pepnet::cuda

extern "C" __attribute__((visibility("default"))) const pepnet::cuda::Library* pepnet_cuda_library() {
  using namespace pepnet::cuda;
  static const Library library{kInterface, kEmulated, device_count, device_info, make_model, make_rows};
  return &library;
}
