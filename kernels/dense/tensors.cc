#include "dense/tensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <stdexcept>
#include <utility>

namespace pepnet::engine {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string text_of(const std::vector<std::size_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

class Reader {
 public:
  Reader(const Tensors& tensors, std::size_t hidden) : tensors_(tensors), hidden_(hidden) {}

  const float* read(const std::string& name, const std::vector<std::size_t>& shape) {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) refuse("tensors: expected '" + name + "', which is missing");
    read_.insert(name);
    const TensorView& tensor = it->second;
    if (tensor.shape != shape) {
      refuse(name + ": expected shape " + text_of(shape) + ", got " + text_of(tensor.shape));
    }
    std::size_t count = 1;
    for (const std::size_t n : shape) count *= n;
    for (std::size_t i = 0; i < count; ++i) {
      if (!std::isfinite(tensor.data[i])) {
        refuse(name + ": expected finite values, got " + std::to_string(tensor.data[i]) + " at " +
               std::to_string(i) + " of " + text_of(shape));
      }
    }
    return tensor.data;
  }

  GateTensors gate(const std::string& name, std::size_t into, std::size_t out) {
    const std::size_t hidden = hidden_ == 0 ? out : hidden_;
    return {name,
            read(name + ".w1", {into, hidden}),
            read(name + ".b1", {hidden}),
            read(name + ".w2", {hidden, out}),
            read(name + ".b2", {out}),
            into,
            hidden,
            out};
  }

  LayerTensors layer(const std::string& name, std::size_t copies, std::size_t in, std::size_t out) {
    return {name, read(name + ".w", {copies, in, out}), read(name + ".b", {copies, out}), in, out};
  }

  void expect_no_more() const {
    for (const auto& [name, tensor] : tensors_) {
      if (read_.contains(name) || std::ranges::count(tensor.shape, 0U) > 0) continue;
      refuse("tensors: '" + name + "' is not one that the network reads");
    }
  }

 private:
  const Tensors& tensors_;
  const std::size_t hidden_;
  std::set<std::string> read_;
};

// The widths that PPNet's gates multiply, in order of l, for one group.
std::vector<std::size_t> gated_widths(const DenseConfig& config) {
  if (!config.use_ppnet) return {};
  if (!config.input_gates) return config.layers;
  std::vector<std::size_t> widths{config.general};
  widths.insert(widths.end(), config.layers.begin(), config.layers.end());
  if (!config.by_task) widths.pop_back();  // only the network by task has a layer after these
  return widths;
}

// More would be no blocks, and numbers of rows near the largest of their type have no room to be rounded up.
constexpr std::size_t kMostBlockRows = std::size_t{1} << 20;

}  // namespace

void check_config(const DenseConfig& config) {
  if (config.general == 0) refuse("general: expected a width of at least 1, got 0");
  if (config.use_epnet && config.domain == 0) refuse("domain: EPNet needs a width of at least 1, got 0");
  if (config.use_ppnet && config.prior == 0) refuse("prior: PPNet needs a width of at least 1, got 0");
  if (config.layers.empty()) refuse("layers: expected at least one width, got none");
  for (const auto& [name, widths] :
       {std::pair{"layers", &config.layers}, std::pair{"towers", &config.towers}}) {
    if (std::ranges::count(*widths, 0U) > 0)
      refuse(name + std::string(": expected widths of at least 1, got 0"));
  }
  if (config.tasks == 0) refuse("tasks: expected at least 1, got 0");
  if (!config.by_task && config.experts == 0) refuse("experts: expected at least 1, got 0");
  if (!(config.gamma > 0.0F) || !std::isfinite(config.gamma)) {
    refuse("gamma: expected a positive number, got " + std::to_string(config.gamma));
  }
}

void check_options(const network::Network& network, const DenseOptions& options) {
  for (network::ValueId input = 0; input < network::kInputs; ++input) {
    const std::size_t width = network.shape(input).width;
    std::size_t end = 0;
    for (const auto& [first, last] : options.shared[input]) {
      if (first < end || last < first || last > width) {
        refuse("shared: expected ascending runs within 0 to " + std::to_string(width) + " of " +
               network::kInputNames[input] + ", got " + std::to_string(first) + " to " +
               std::to_string(last));
      }
      end = last;
    }
    if (!options.domain) continue;
    const std::size_t limits = options.domain->largest[input].size();
    if (limits == width) continue;
    refuse("domain: expected a limit for each of " + std::to_string(width) + " columns, got " +
           std::to_string(limits));
  }
  if (options.block_rows > kMostBlockRows) {
    refuse("block_rows: expected at most " + std::to_string(kMostBlockRows) + ", got " +
           std::to_string(options.block_rows));
  }
}

void check_values(const network::Network& network, const Tensors& tensors) {
  Reader reader(tensors, 0);
  for (const auto& [name, shape] : network.tensors()) reader.read(name, shape);
  reader.expect_no_more();
}

ModelTensors check_tensors(const DenseConfig& config, const Tensors& tensors) {
  Reader reader(tensors, config.gate_hidden);
  ModelTensors model;
  if (config.use_epnet) {
    const std::size_t into = config.domain + (config.epnet_general ? config.general : 0);
    model.epnet.push_back(reader.gate("epnet.gate", into, config.general));
  }
  const std::size_t copies = config.group_gates ? config.groups() : 1;
  for (const std::size_t width : gated_widths(config)) {
    const std::string name = "ppnet." + std::to_string(model.gates.size()) + ".gate";
    model.gates.push_back(reader.gate(name, config.prior + config.general, copies * width));
  }
  std::vector<std::size_t> outputs = config.layers;
  if (config.by_task) outputs.push_back(1);
  std::size_t in = config.general;
  for (const std::size_t out : outputs) {
    const std::string name = "experts." + std::to_string(model.experts.size());
    model.experts.push_back(reader.layer(name, config.groups(), in, out));
    in = out;
  }
  if (!config.by_task) {
    const std::size_t logits = config.tasks * config.experts;
    model.mix = {"mix", reader.read("mix.w", {config.general, logits}), reader.read("mix.b", {logits}),
                 config.general, logits};
    outputs = config.towers;
    outputs.push_back(1);
    for (const std::size_t out : outputs) {
      const std::string name = "towers." + std::to_string(model.towers.size());
      model.towers.push_back(reader.layer(name, config.tasks, in, out));
      in = out;
    }
  }
  reader.expect_no_more();
  return model;
}

}  // namespace pepnet::engine
