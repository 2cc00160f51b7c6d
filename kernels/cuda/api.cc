#include "cuda/api.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/model.h"

#define PEPNET_EXPORT __attribute__((visibility("default")))

namespace {

using pepnet::DenseConfig;
using pepnet::Tensors;
using pepnet::cuda::FeatureCall;
using pepnet::cuda::FieldKind;
using pepnet::cuda::FieldSpec;
using pepnet::cuda::FieldView;
using pepnet::cuda::Model;
using pepnet::cuda::PendingScores;
using pepnet::cuda::Source;
using pepnet::cuda::Tile;
using pepnet::cuda::TileChoice;

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

// Returns 0, or -1 with the message kept.
template <class Work>
int32_t done(const Work& work) noexcept {
  return guarded(-1, [&] {
    work();
    return 0;
  });
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

using SharedRows = std::shared_ptr<pepnet::cuda::DeviceRows>;

pepnet::cuda::DeviceRows& rows_of(void* handle) { return **static_cast<SharedRows*>(handle); }

template <class T>
std::span<const T> span_of(const T* values, int64_t count) {
  return {values, static_cast<std::size_t>(count)};
}

FieldSpec field_of(const PepnetField& given) {
  FieldSpec field{static_cast<FieldKind>(given.kind), given.width, given.number, {}};
  for (const PepnetPlace& place : span_of(given.places, given.place_count))
    field.places.emplace_back(static_cast<Source>(place.input), place.column);
  return field;
}

// The views live as long as this does.
struct Call {
  std::vector<FieldView> views;
  FeatureCall call;

  explicit Call(const PepnetScoring& given) {
    for (const PepnetFeature& one : span_of(given.features, given.feature_count))
      views.push_back({one.keys, one.offsets, one.values, one.default_row,
                       static_cast<std::size_t>(one.count), one.shared != 0});
    call = {views, static_cast<std::size_t>(given.first), static_cast<std::size_t>(given.rows), given.scores,
            given.unknown};
  }
};

// Copies what `tell` writes, as JSON, as far as there is room. Returns its length, or -1 with the message
// kept.
template <class Tell>
int64_t told(char* to, int64_t size, const Tell& tell) noexcept {
  return guarded(int64_t{-1}, [&] {
    std::ostringstream json;
    json.precision(17);
    tell(json);
    const std::string text = json.str();
    if (size > 0) {
      const std::size_t length = std::min(text.size(), static_cast<std::size_t>(size) - 1);
      std::memcpy(to, text.data(), length);
      to[length] = '\0';
    }
    return static_cast<int64_t>(text.size());
  });
}

void write_choices(std::ostringstream& json, const std::vector<TileChoice>& choices) {
  for (const char* between = ""; const TileChoice& one : choices) {
    json << between << "{\"tile\": \"" << name_of(one.tile) << "\", \"microseconds\": {";
    between = ", ";
    for (const char* then = ""; const auto& [tile, took] : one.microseconds) {
      json << then << '"' << name_of(tile) << "\": " << took;
      then = ", ";
    }
    json << "}}";
  }
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
  return told(text, size, [&](std::ostringstream& json) {
    const pepnet::cuda::DeviceInfo info = pepnet::cuda::device_info(device);
    json << "{\"name\": " << quoted(info.name) << ", \"capability\": \"" << info.major << '.' << info.minor
         << "\", \"multiprocessors\": " << info.multiprocessors << ", \"memory_bytes\": " << info.memory_bytes
         << '}';
  });
}

PEPNET_EXPORT void* pepnet_cuda_model(const PepnetConfig* config, const PepnetTensor* tensors,
                                      int64_t tensor_count, int32_t bf16, int32_t device, int32_t graphs,
                                      int32_t tile) {
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    Tensors views;
    for (int64_t i = 0; i < tensor_count; ++i)
      views[tensors[i].name] = {tensors[i].data, widths(tensors[i].shape, tensors[i].ndim)};
    std::optional<Tile> given;
    if (tile >= 0) given = pepnet::cuda::kTiles[std::min(tile, 3)];
    return pepnet::cuda::make_model(config_of(*config), views, bf16 != 0, device, graphs != 0, given)
        .release();
  });
}

PEPNET_EXPORT void pepnet_cuda_free(void* model) { delete static_cast<Model*>(model); }

PEPNET_EXPORT int32_t pepnet_cuda_run(void* model, const PepnetCall* call) {
  return done([&] {
    static_cast<Model*>(model)->run({call->general, call->domain, call->prior, call->scores,
                                     static_cast<std::size_t>(call->rows), call->on_device != 0,
                                     call->stream});
  });
}

PEPNET_EXPORT int64_t pepnet_cuda_facts(void* model, char* text, int64_t size) {
  return told(text, size, [&](std::ostringstream& json) {
    const pepnet::cuda::ModelFacts facts = static_cast<const Model*>(model)->facts();
    json << "{\"weight_bytes\": " << facts.weight_bytes << ", \"products\": [";
    for (std::size_t i = 0; i < facts.costs.size(); ++i) {
      const auto& cost = facts.costs[i];
      json << (i == 0 ? "" : ", ") << "{\"name\": " << quoted(cost.name)
           << ", \"flops_a_row\": " << cost.flops << ", \"weight_bytes\": " << cost.weight_bytes
           << ", \"launch\": " << cost.launch << '}';
    }
    json << "], \"tiles\": {";
    for (const char* between = ""; const auto& [rows, choices] : facts.tiles) {
      json << between << '"' << rows << "\": [";
      between = ", ";
      write_choices(json, choices);
      json << ']';
    }
    json << "}}";
  });
}

PEPNET_EXPORT void* pepnet_cuda_rows(const PepnetWidth* widths, int64_t count, int32_t by_score,
                                     int32_t device) {
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    const pepnet::cuda::OnDevice here(device);
    std::vector<pepnet::cuda::DeviceRows::Width> given;
    for (const PepnetWidth& one : span_of(widths, count))
      given.push_back({static_cast<int>(one.width), static_cast<std::size_t>(one.entries)});
    return new SharedRows(std::make_shared<pepnet::cuda::DeviceRows>(device, given, by_score != 0));
  });
}

PEPNET_EXPORT void pepnet_cuda_rows_free(void* rows) { delete static_cast<SharedRows*>(rows); }

PEPNET_EXPORT uint64_t pepnet_cuda_rows_generation(void* rows) { return rows_of(rows).generation(); }

PEPNET_EXPORT int32_t pepnet_cuda_rows_insert(void* rows, const PepnetNewRows* given, uint64_t generation) {
  return guarded(-1, [&] {
    const bool done =
        rows_of(rows).insert({static_cast<int>(given->width), span_of(given->keys, given->count), given->rows,
                              given->absent, given->high, given->scores, given->expires},
                             generation);
    return done ? 1 : 0;
  });
}

PEPNET_EXPORT int32_t pepnet_cuda_rows_drop(void* rows, int64_t width, const uint64_t* keys, int64_t count) {
  return done([&] { rows_of(rows).drop(static_cast<int>(width), span_of(keys, count)); });
}

PEPNET_EXPORT int32_t pepnet_cuda_rows_clear(void* rows) {
  return done([&] { rows_of(rows).clear(); });
}

PEPNET_EXPORT int64_t pepnet_cuda_rows_stats(void* rows, char* text, int64_t size) {
  return told(text, size, [&](std::ostringstream& json) {
    const pepnet::cuda::RowsStats stats = rows_of(rows).stats();
    json << "{\"entries\": " << stats.entries << ", \"bytes\": " << stats.bytes
         << ", \"inserted\": " << stats.inserted << ", \"dropped\": " << stats.dropped
         << ", \"outdated\": " << stats.outdated << '}';
  });
}

PEPNET_EXPORT int32_t pepnet_cuda_attach(void* model, void* rows, const PepnetField* fields, int64_t count) {
  return done([&] {
    std::vector<FieldSpec> specs;
    for (const PepnetField& field : span_of(fields, count)) specs.push_back(field_of(field));
    static_cast<Model*>(model)->attach(*static_cast<SharedRows*>(rows), std::move(specs));
  });
}

PEPNET_EXPORT int32_t pepnet_cuda_score(void* model, PepnetScoring* call) {
  call->waiting = nullptr;
  return done([&] {
    const Call given(*call);
    std::unique_ptr<PendingScores> waiting = static_cast<Model*>(model)->score(given.call);
    if (waiting) {
      call->lacking = waiting->lacking().data();
      call->lacking_count = static_cast<int64_t>(waiting->lacking().size());
      call->generation = waiting->generation();
      call->waiting = waiting.release();
    }
  });
}

PEPNET_EXPORT int32_t pepnet_cuda_finish(PepnetScoring* call, const PepnetPatches* patches) {
  const std::unique_ptr<PendingScores> waiting(static_cast<PendingScores*>(call->waiting));
  call->waiting = nullptr;
  return done([&] {
    const Call given(*call);
    waiting->finish(given.call, {span_of(patches->at, patches->count), span_of(patches->from, patches->count),
                                 span_of(patches->values, patches->value_count)});
  });
}

PEPNET_EXPORT void pepnet_cuda_forget(void* waiting) { delete static_cast<PendingScores*>(waiting); }

}  // extern "C"
