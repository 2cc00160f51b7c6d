#include "cuda/api.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>

#include "cuda/model.h"

#define PEPNET_EXPORT __attribute__((visibility("default")))

namespace {

using pepnet::DenseConfig;
using pepnet::Tensors;
using pepnet::cuda::Model;

thread_local std::string last_error;

// Returns what `work` returns, or `failed` with the message kept.
template <class Result, class Work>
Result guarded(Result failed, const Work& work) noexcept {
  try {
    return work();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "cuda: an error of unknown kind";
  }
  return failed;
}

std::vector<std::size_t> widths(const int64_t* values, int64_t count) {
  std::vector<std::size_t> result;
  for (int64_t i = 0; i < count; ++i) result.push_back(static_cast<std::size_t>(values[i]));
  return result;
}

DenseConfig config_of(const PepnetConfig& given) {
  DenseConfig config;
  config.general = static_cast<std::size_t>(given.general);
  config.domain = static_cast<std::size_t>(given.domain);
  config.prior = static_cast<std::size_t>(given.prior);
  config.experts = static_cast<std::size_t>(given.experts);
  config.tasks = static_cast<std::size_t>(given.tasks);
  config.layers = widths(given.layers, given.layer_count);
  config.towers = widths(given.towers, given.tower_count);
  if (given.gate_hidden > 0) config.gate_hidden = static_cast<std::size_t>(given.gate_hidden);
  if (given.gate_hidden < 0) config.gate_hidden = DenseConfig::kOutputWidth;
  config.by_task = given.by_task != 0;
  config.input_gates = given.input_gates != 0;
  config.group_gates = given.group_gates != 0;
  config.epnet_general = given.epnet_general != 0;
  config.use_epnet = given.use_epnet != 0;
  config.use_ppnet = given.use_ppnet != 0;
  config.gamma = given.gamma;
  return config;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) result += c;
  }
  return result + '"';
}

int64_t write(const std::string& text, char* to, int64_t size) {
  if (size > 0) {
    const std::size_t length = std::min(text.size(), static_cast<std::size_t>(size) - 1);
    std::memcpy(to, text.data(), length);
    to[length] = '\0';
  }
  return static_cast<int64_t>(text.size());
}

}  // namespace

extern "C" {

PEPNET_EXPORT int32_t pepnet_cuda_abi(void) { return PEPNET_CUDA_ABI; }

PEPNET_EXPORT const char* pepnet_cuda_error(void) { return last_error.c_str(); }

PEPNET_EXPORT int32_t pepnet_cuda_emulated(void) { return pepnet::cuda::kEmulated ? 1 : 0; }

PEPNET_EXPORT int32_t pepnet_cuda_devices(void) {
  return guarded(-1, [] { return pepnet::cuda::device_count(); });
}

PEPNET_EXPORT int64_t pepnet_cuda_device(int32_t device, char* text, int64_t size) {
  return guarded(int64_t{-1}, [&] {
    const pepnet::cuda::DeviceInfo info = pepnet::cuda::device_info(device);
    std::ostringstream json;
    json << "{\"name\": " << quoted(info.name) << ", \"capability\": \"" << info.major << '.' << info.minor
         << "\", \"multiprocessors\": " << info.multiprocessors << ", \"memory_bytes\": " << info.memory_bytes
         << '}';
    return write(json.str(), text, size);
  });
}

PEPNET_EXPORT void* pepnet_cuda_model(const PepnetConfig* config, const PepnetTensor* tensors,
                                      int64_t tensor_count, int32_t bf16, int32_t device, int32_t graphs) {
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    Tensors views;
    for (int64_t i = 0; i < tensor_count; ++i)
      views[tensors[i].name] = {tensors[i].data, widths(tensors[i].shape, tensors[i].ndim)};
    return pepnet::cuda::make_model(config_of(*config), views, bf16 != 0, device, graphs != 0).release();
  });
}

PEPNET_EXPORT void pepnet_cuda_free(void* model) { delete static_cast<Model*>(model); }

PEPNET_EXPORT int32_t pepnet_cuda_run(void* model, const PepnetCall* call) {
  return guarded(-1, [&] {
    static_cast<Model*>(model)->run({call->general, call->domain, call->prior, call->scores,
                                     static_cast<std::size_t>(call->rows), call->has_stream != 0,
                                     call->stream});
    return 0;
  });
}

PEPNET_EXPORT int64_t pepnet_cuda_facts(void* model, char* text, int64_t size) {
  return guarded(int64_t{-1}, [&] {
    const pepnet::cuda::ModelFacts facts = static_cast<const Model*>(model)->facts();
    std::ostringstream json;
    json.precision(17);
    json << "{\"weight_bytes\": " << facts.weight_bytes << ", \"products\": [";
    for (std::size_t i = 0; i < facts.costs.size(); ++i) {
      const auto& cost = facts.costs[i];
      json << (i == 0 ? "" : ", ") << "{\"name\": " << quoted(cost.name)
           << ", \"flops_a_row\": " << cost.flops << ", \"weight_bytes\": " << cost.weight_bytes << '}';
    }
    json << "]}";
    return write(json.str(), text, size);
  });
}

}  // extern "C"
