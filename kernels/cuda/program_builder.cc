// From flags and tensors to steps: which product reads what, and where its weights are.
#include <algorithm>

#include "cuda/packing.h"
#include "cuda/program.h"

namespace pepnet::cuda {

using engine::GateTensors;
using engine::LayerTensors;
using engine::ModelTensors;

class Program::Builder {
 public:
  Builder(Program& program, const ModelTensors& tensors)
      : program_(program),
        config_(program.config_),
        tensors_(tensors),
        packing_(program.weights_, program.precision_) {}

  void build() {
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
  int buffer(int stride, bool floats) {
    program_.buffers_.push_back({stride, floats ? Precision::fp32 : program_.precision_});
    return static_cast<int>(program_.buffers_.size()) - 1;
  }

  // Makes `side` a product's share of x·w + b, for x of `depth` columns from `x` on, a group's `x_group`
  // apart.
  SidePlan side(Side& side, Place x, int x_group, int depth, const Weights& of) {
    const int columns = padded(of.width);
    const auto line = static_cast<std::size_t>(columns);
    side.a_group = x_group;
    side.w_group = of.copies == 1 ? 0 : static_cast<std::size_t>(depth) * line;
    side.bias_group = of.copies == 1 ? 0 : columns;
    side.depth = depth;
    const std::size_t w = packing_.matrices(of, depth, columns);
    return {x, w, packing_.rows(of.b, of.width, line, of.copies)};
  }

  ProductPlan product(const std::string& name, Place x, int x_group, int depth, const Weights& of,
                      Epilogue epilogue) {
    ProductPlan plan;
    plan.name = name;
    plan.main = side(plan.product.main, x, x_group, depth, of);
    plan.product.epilogue = epilogue;
    plan.product.gamma = config_.gamma;
    plan.product.groups = static_cast<int>(of.copies);
    plan.product.columns = padded(of.width);
    plan.product.used = whole(of.width);
    return plan;
  }

  // Adds a product, in one launch with the last one if `joined` and there is room: it does not read what they
  // write. Its output is a buffer of its own where it has none. Returns where that is.
  Place add(ProductPlan plan, bool joined = false, bool floats = false) {
    if (plan.out.buffer < 0) {
      Product& product = plan.product;
      plan.out.buffer = buffer(product.groups * product.columns, floats);
      product.out_group = product.groups > 1 ? product.columns : 0;
    }
    const Place out = plan.out;
    auto* const last = joined ? std::get_if<ProductsPlan>(&program_.steps_.back()) : nullptr;
    if (last != nullptr && last->products.size() < kMostTogether) {
      last->products.push_back(std::move(plan));
    } else {
      program_.steps_.push_back(ProductsPlan{{std::move(plan)}});
    }
    return out;
  }

  void inputs() {
    const std::size_t prior = config_.use_ppnet ? config_.prior : 0;
    general_columns_ = padded(config_.general);
    x2_columns_ = general_columns_ + padded(prior);
    x2_ = buffer(x2_columns_, false);
    CopyPlan copy;
    if (config_.use_epnet) {
      const std::size_t general = config_.epnet_general ? config_.general : 0;
      const int width = x1_columns_ = padded(config_.domain + general);
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
    const Place between =
        add(product(gate.name + ".w1", {x1_, 0}, 0, x1_columns_,
                    {gate.w1, gate.b1, gate.into, gate.hidden, gate.hidden}, Epilogue::relu));
    ProductPlan second = product(gate.name + ".w2", between, 0, padded(gate.hidden),
                                 {gate.w2, gate.b2, gate.hidden, gate.out, gate.out}, Epilogue::gate_times);
    second.times = {floats_, 0};
    second.out = {x2_, 0};
    add(std::move(second));
  }

  // The first layers of all gates as one product over [o | prior]; then the second layers of those that
  // groups share.
  void gates() {
    std::vector<int> used;  // of each kWhole columns
    for (const GateTensors& gate : tensors_.gates) {
      hidden_at_.push_back(static_cast<int>(used.size()) * kWhole);
      for (int left = whole(gate.hidden); left > 0; left -= kWhole) used.push_back(std::min(left, kWhole));
    }
    const auto depth = static_cast<std::size_t>(x2_columns_),
               general = static_cast<std::size_t>(general_columns_), columns = used.size() * kWhole;
    std::vector<float> w(depth * columns), b(columns);
    for (std::size_t l = 0; l < tensors_.gates.size(); ++l) {
      const GateTensors& gate = tensors_.gates[l];
      const auto at = static_cast<std::size_t>(hidden_at_[l]);
      for (std::size_t r = 0; r < gate.into; ++r) {
        const std::size_t to = r < config_.prior ? general + r : r - config_.prior;
        std::copy_n(gate.w1 + r * gate.hidden, gate.hidden, w.data() + to * columns + at);
      }
      std::copy_n(gate.b1, gate.hidden, b.data() + at);
    }
    ProductPlan first = product("ppnet.w1", {x2_, 0}, 0, x2_columns_,
                                {w.data(), b.data(), depth, columns, columns}, Epilogue::relu);
    first.used_by_whole = packing_.rows(used.data(), used.size(), used.size(), 1);
    hidden_ = add(std::move(first)).buffer;
    bool joined = false;  // all of them read what `first` has made
    for (std::size_t l = 0; l < tensors_.gates.size(); ++l) {
      const bool feeds = config_.input_gates && l == 0;
      if (!feeds && config_.group_gates) {
        deltas_.push_back({});
        continue;
      }
      const GateTensors& gate = tensors_.gates[l];
      ProductPlan second = product(gate.name + ".w2", {hidden_, hidden_at_[l]}, 0, padded(gate.hidden),
                                   second_of(gate), feeds ? Epilogue::gate_times : Epilogue::gate);
      if (feeds) second.times = {x2_, 0};
      deltas_.push_back(add(std::move(second), joined));
      joined = true;
    }
  }

  // A gate's second layer, by group where groups have their own.
  Weights second_of(const GateTensors& gate) const {
    const std::size_t copies = config_.group_gates ? config_.groups() : 1, width = gate.out / copies;
    return {gate.w2, gate.b2, gate.hidden, width, gate.out, copies, width};
  }

  void logits() {
    const LayerTensors& mix = tensors_.mix;
    // It reads no gate; without them, what the last launch writes.
    z_ = add(product("mix", {x2_, 0}, 0, general_columns_, {mix.w, mix.b, mix.in, mix.out, mix.out},
                     Epilogue::none),
             config_.use_ppnet, true);
  }

  // One layer of so many networks side by side.
  static Weights all_of(const LayerTensors& layer, std::size_t networks) {
    return {layer.w, layer.b, layer.in, layer.out, layer.out, networks, layer.in * layer.out};
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
      ProductPlan plan = product(layer.name, x, group, depth, all_of(layer, groups), Epilogue::relu);
      const std::size_t gate = l + (config_.input_gates ? 1 : 0);
      if (config_.use_ppnet && gate < tensors_.gates.size()) {
        if (config_.group_gates) {
          const GateTensors& own = tensors_.gates[gate];
          plan.product.epilogue = Epilogue::relu_gated;
          plan.gate =
              side(plan.product.gate, {hidden_, hidden_at_[gate]}, 0, padded(own.hidden), second_of(own));
        } else {
          plan.product.epilogue = Epilogue::relu_times;
          plan.times = deltas_[gate];
        }
      }
      group = depth = plan.product.columns;
      // Without gates the logits are the launch before, which the first layer does not read.
      x = add(std::move(plan), l == 0 && !config_.use_ppnet && !config_.by_task,
              l + 1 == config_.layers.size());
    }
    h_ = x;
    h_group_ = group;
  }

  void towers() {
    const bool alone = tensors_.towers.size() == 1;
    const auto tasks = static_cast<int>(config_.tasks);
    Place x{buffer(tasks * h_group_, alone), 0};
    program_.steps_.push_back(MixPlan{z_, h_, x, static_cast<int>(config_.experts), h_group_, tasks});
    int group = h_group_;
    for (std::size_t i = 0; i + 1 < tensors_.towers.size(); ++i) {
      const LayerTensors& layer = tensors_.towers[i];
      ProductPlan plan = product(layer.name, x, group, group, all_of(layer, config_.tasks), Epilogue::relu);
      group = plan.product.columns;
      x = add(std::move(plan), false, i + 2 == tensors_.towers.size());
    }
    score(tensors_.towers.back(), x, group);
  }

  void score(const LayerTensors& layer, Place h, int h_group) {
    const std::size_t tasks = config_.tasks;
    const std::size_t w = packing_.rows(layer.w, layer.in, layer.in, tasks),
                      b = packing_.rows(layer.b, tasks, tasks, 1);
    program_.steps_.push_back(ScorePlan{h, h_group, whole(layer.in), static_cast<int>(tasks), w, b});
  }

  Program& program_;
  const DenseConfig& config_;
  const ModelTensors& tensors_;
  Packing packing_;
  int general_columns_ = 0, x1_columns_ = 0, x2_columns_ = 0;
  int x1_ = -1, x2_ = -1, floats_ = -1, hidden_ = -1;
  std::vector<int> hidden_at_;
  std::vector<Place> deltas_;
  Place z_, h_;
  int h_group_ = 0;
};

Program::Program(const DenseConfig& config, const ModelTensors& tensors, Precision precision)
    : config_(config), precision_(precision) {
  Builder(*this, tensors).build();
}

}  // namespace pepnet::cuda
