// From flags and tensors to steps: which product reads what, and where its weights are.
#include <algorithm>

#include "cuda/packing.h"
#include "cuda/program.h"
#include "dense/tensors.h"

namespace pepnet::cuda {

using engine::GateTensors;
using engine::LayerTensors;
using engine::ModelTensors;

template <class T>
class Program<T>::Builder {
 public:
  Builder(Program& program, const ModelTensors& tensors)
      : program_(program), config_(program.config_), tensors_(tensors), packing_(program.weights_) {}

  void build() {
    if (config_.use_ppnet) {
      for (const GateTensors& gate : tensors_.gates) hidden_columns_ += padded(gate.hidden);
    }
    inputs();
    if (config_.use_epnet) epnet();
    if (config_.use_ppnet) gates();
    if (!config_.by_task) logits();
    layers();
    if (config_.by_task) {
      score(tensors_.experts.back(), h_, h_group_);
    } else {
      towers();
    }
  }

 private:
  bool shared_gates() const { return !config_.group_gates; }

  int buffer(int stride, bool floats) {
    program_.buffers_.push_back({stride, floats});
    return static_cast<int>(program_.buffers_.size()) - 1;
  }

  static ProductPlan named(const std::string& name) {
    ProductPlan plan;
    plan.name = name;
    return plan;
  }

  ProductPlan& add(ProductPlan plan) {
    program_.steps_.push_back(ProductsPlan{{std::move(plan)}});
    return std::get<ProductsPlan>(program_.steps_.back()).products.back();
  }

  // The same, in one launch with the last one where that has room: it does not read what they write.
  ProductPlan& join(ProductPlan plan) {
    auto* const last = std::get_if<ProductsPlan>(&program_.steps_.back());
    if (last == nullptr || last->products.size() == kMostTogether) return add(std::move(plan));
    last->products.push_back(std::move(plan));
    return last->products.back();
  }

  void inputs() {
    const std::size_t prior = config_.use_ppnet ? config_.prior : 0;
    general_columns_ = padded(config_.general);
    x2_columns_ = general_columns_ + padded(prior);
    x2_ = buffer(x2_columns_, false);
    CopyPlan copy;
    if (config_.use_epnet) {
      const std::size_t general = config_.epnet_general ? config_.general : 0;
      const int width = padded(config_.domain + general);
      x1_ = buffer(width, false);
      // The first of two neighbours is not padded: the second begins there, and has the zeros of both.
      const int domain = whole(config_.domain);
      copy.copies.push_back({Source::domain, domain, general > 0 ? domain : width, {x1_, 0}});
      if (general > 0)
        copy.copies.push_back({Source::general, whole(general), width - domain, {x1_, domain}});
      floats_ = buffer(general_columns_, true);
      copy.copies.push_back({Source::general, whole(config_.general), general_columns_, {floats_, 0}});
    } else {
      copy.copies.push_back({Source::general, whole(config_.general), general_columns_, {x2_, 0}});
    }
    if (prior > 0) {
      copy.copies.push_back(
          {Source::prior, whole(prior), x2_columns_ - general_columns_, {x2_, general_columns_}});
    }
    program_.steps_.push_back(std::move(copy));
  }

  void epnet() {
    const GateTensors& gate = tensors_.epnet.front();
    const int depth = program_.buffers_[static_cast<std::size_t>(x1_)].stride, hidden = padded(gate.hidden);
    ProductPlan first = named(gate.name + ".w1");
    first.main = {{x1_, 0},
                  0,
                  packing_.pack(gate.w1, gate.hidden, gate.hidden, {{0, gate.into, 0}}, depth, hidden, 1, 0),
                  0,
                  packing_.bias(gate.b1, gate.hidden, hidden, 1, 0),
                  0,
                  depth};
    first.epilogue = Epilogue::relu;
    first.columns = hidden;
    first.used = whole(gate.hidden);
    first.out = {buffer(hidden, false), 0};
    const Place between = add(first).out;
    ProductPlan second = named(gate.name + ".w2");
    second.main = {
        between,
        0,
        packing_.pack(gate.w2, gate.out, gate.out, {{0, gate.hidden, 0}}, hidden, general_columns_, 1, 0),
        0,
        packing_.bias(gate.b2, gate.out, general_columns_, 1, 0),
        0,
        hidden};
    second.epilogue = Epilogue::gate_times;
    second.columns = general_columns_;
    second.used = whole(gate.out);
    second.times = {floats_, 0};
    second.out = {x2_, 0};
    add(second);
  }

  // The first layers of all gates as one product over [o | prior]; then the second layers of those that
  // groups share.
  void gates() {
    const int depth = x2_columns_;
    hidden_ = buffer(hidden_columns_, false);
    const std::size_t packed = packing_.template reserve<T>(static_cast<std::size_t>(depth) *
                                                            static_cast<std::size_t>(hidden_columns_));
    const std::size_t biases = packing_.template reserve<float>(static_cast<std::size_t>(hidden_columns_));
    int at = 0;
    for (const GateTensors& gate : tensors_.gates) {
      const std::vector<RowRun> rows{{0, config_.prior, static_cast<std::size_t>(general_columns_)},
                                     {config_.prior, config_.general, 0}};
      packing_.pack(gate.w1, gate.hidden, gate.hidden, rows, depth, hidden_columns_, 1, 0, at, packed);
      std::copy_n(gate.b1, gate.hidden, reinterpret_cast<float*>(program_.weights_.data() + biases) + at);
      hidden_at_.push_back(at);
      at += padded(gate.hidden);
    }
    ProductPlan first = named("ppnet.w1");
    first.main = {{x2_, 0}, 0, packed, 0, biases, 0, depth};
    first.epilogue = Epilogue::relu;
    first.columns = first.used = hidden_columns_;
    first.side_by_side = true;
    first.used_by_whole = packing_.template reserve<int>(static_cast<std::size_t>(hidden_columns_ / kWhole));
    auto* used = reinterpret_cast<int*>(program_.weights_.data() + first.used_by_whole);
    for (const GateTensors& gate : tensors_.gates) {
      for (int left = whole(gate.hidden); left > 0; left -= kWhole) *used++ = std::min(left, kWhole);
    }
    first.out = {hidden_, 0};
    add(first);
    bool seconds = false;
    for (std::size_t l = 0; l < tensors_.gates.size(); ++l) {
      const bool feeds = config_.input_gates && l == 0;
      if (!feeds && !shared_gates()) {
        deltas_.push_back({});
        continue;
      }
      const GateTensors& gate = tensors_.gates[l];
      const std::size_t copies = config_.group_gates ? config_.groups() : 1, width = gate.out / copies;
      ProductPlan second = named(gate.name + ".w2");
      second.main = gate_side(l);
      second.groups = static_cast<int>(copies);
      second.columns = padded(width);
      second.used = whole(width);
      second.epilogue = Epilogue::gate;
      if (feeds) {
        second.epilogue = Epilogue::gate_times;
        second.times = {x2_, 0};
      }
      second.out = {buffer(second.groups * second.columns, false), 0};
      second.out_group = copies > 1 ? second.columns : 0;
      // All of them read what `first` has made.
      deltas_.push_back((seconds ? join(second) : add(second)).out);
      seconds = true;
    }
  }

  // Gate l's second layer, by group where groups have their own.
  SidePlan gate_side(std::size_t l) {
    const GateTensors& gate = tensors_.gates[l];
    const std::size_t copies = config_.group_gates ? config_.groups() : 1, width = gate.out / copies;
    const int columns = padded(width), depth = padded(gate.hidden);
    const std::size_t w =
        packing_.pack(gate.w2, gate.out, width, {{0, gate.hidden, 0}}, depth, columns, copies, width);
    const std::size_t size = static_cast<std::size_t>(depth) * static_cast<std::size_t>(columns);
    return {{hidden_, hidden_at_[l]},
            0,
            w,
            copies > 1 ? size : 0,
            packing_.bias(gate.b2, width, columns, copies, width),
            copies > 1 ? columns : 0,
            depth};
  }

  void logits() {
    const LayerTensors& mix = tensors_.mix;
    const int columns = padded(mix.out);
    ProductPlan plan = named("mix");
    plan.main = {{x2_, 0},
                 0,
                 packing_.pack(mix.w, mix.out, mix.out, {{0, mix.in, 0}}, general_columns_, columns, 1, 0),
                 0,
                 packing_.bias(mix.b, mix.out, columns, 1, 0),
                 0,
                 general_columns_};
    plan.columns = columns;
    plan.used = whole(mix.out);
    plan.out = {buffer(columns, true), 0};
    // It reads no gate; without them, what the last launch writes.
    z_ = (config_.use_ppnet ? join(plan) : add(plan)).out;
  }

  void layers() {
    const std::size_t groups = config_.groups();
    Place x{x2_, 0};
    int group = 0, depth = general_columns_;
    if (config_.use_ppnet && config_.input_gates) {
      x = deltas_.front();
      group = config_.group_gates && groups > 1 ? general_columns_ : 0;
    }
    for (std::size_t l = 0; l < config_.layers.size(); ++l) {
      const LayerTensors& layer = tensors_.experts[l];
      const int columns = padded(layer.out);
      ProductPlan plan = named(layer.name);
      plan.main = side(layer, x, group, depth, columns);
      plan.groups = static_cast<int>(groups);
      plan.columns = columns;
      plan.used = whole(layer.out);
      plan.epilogue = Epilogue::relu;
      const std::size_t gate = l + (config_.input_gates ? 1 : 0);
      if (config_.use_ppnet && gate < tensors_.gates.size()) {
        if (shared_gates()) {
          plan.epilogue = Epilogue::relu_times;
          plan.times = deltas_[gate];
        } else {
          plan.epilogue = Epilogue::relu_gated;
          plan.gate = gate_side(gate);
        }
      }
      plan.out = {buffer(plan.groups * columns, l + 1 == config_.layers.size()), 0};
      plan.out_group = columns;
      // Without gates the logits are the launch before, which the first layer does not read.
      x = (l == 0 && !config_.use_ppnet && !config_.by_task ? join(plan) : add(plan)).out;
      group = depth = columns;
    }
    h_ = x;
    h_group_ = group;
  }

  // One layer of all groups, on an input whose columns are `depth` wide.
  SidePlan side(const LayerTensors& layer, Place x, int x_group, int depth, int columns) {
    const std::size_t groups = layer_groups();
    const std::size_t w = packing_.pack(layer.w, layer.out, layer.out, {{0, layer.in, 0}}, depth, columns,
                                        groups, layer.in * layer.out);
    return {x,
            x_group,
            w,
            static_cast<std::size_t>(depth) * static_cast<std::size_t>(columns),
            packing_.bias(layer.b, layer.out, columns, groups, layer.out),
            columns,
            depth};
  }

  std::size_t layer_groups() const { return in_towers_ ? config_.tasks : config_.groups(); }

  void towers() {
    in_towers_ = true;
    const bool alone = tensors_.towers.size() == 1;
    const auto tasks = static_cast<int>(config_.tasks);
    Place x{buffer(tasks * h_group_, alone), 0};
    program_.steps_.push_back(MixPlan{z_, h_, x, static_cast<int>(config_.experts), h_group_, tasks});
    int group = h_group_;
    for (std::size_t i = 0; i + 1 < tensors_.towers.size(); ++i) {
      const LayerTensors& layer = tensors_.towers[i];
      const int columns = padded(layer.out);
      ProductPlan plan = named(layer.name);
      plan.main = side(layer, x, group, group, columns);
      plan.groups = tasks;
      plan.columns = columns;
      plan.used = whole(layer.out);
      plan.epilogue = Epilogue::relu;
      plan.out = {buffer(tasks * columns, i + 2 == tensors_.towers.size()), 0};
      plan.out_group = columns;
      x = add(plan).out;
      group = columns;
    }
    score(tensors_.towers.back(), x, group);
  }

  void score(const LayerTensors& layer, Place h, int h_group) {
    const std::size_t tasks = config_.tasks;
    const std::size_t w = packing_.template reserve<float>(tasks * layer.in),
                      b = packing_.template reserve<float>(tasks);
    std::copy_n(layer.w, tasks * layer.in, reinterpret_cast<float*>(program_.weights_.data() + w));
    std::copy_n(layer.b, tasks, reinterpret_cast<float*>(program_.weights_.data() + b));
    program_.steps_.push_back(ScorePlan{h, h_group, whole(layer.in), static_cast<int>(tasks), w, b});
  }

  Program& program_;
  const DenseConfig& config_;
  const ModelTensors& tensors_;
  Packing<T> packing_;
  int general_columns_ = 0, x2_columns_ = 0, hidden_columns_ = 0;
  int x1_ = -1, x2_ = -1, floats_ = -1, hidden_ = -1;
  std::vector<int> hidden_at_;
  std::vector<Place> deltas_;
  Place z_, h_;
  int h_group_ = 0;
  bool in_towers_ = false;
};

template <class T>
Program<T>::Program(const DenseConfig& config, const Tensors& tensors) : config_(config) {
  engine::check_config(config, {});
  const ModelTensors checked = engine::check_tensors(config, tensors);
  Builder(*this, checked).build();
}

template Program<float>::Program(const DenseConfig&, const Tensors&);
template Program<bf16>::Program(const DenseConfig&, const Tensors&);

}  // namespace pepnet::cuda
