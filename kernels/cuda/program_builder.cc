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
      score(tensors_.experts.back(), h_);
    } else {
      towers();
    }
  }

 private:
  // What a product multiplies: `depth` columns from `at` on, those of a group `group` columns further.
  struct Input {
    Place at;
    int group = 0, depth = 0;
  };

  Input buffer(int columns, bool floats = false) {
    program_.buffers_.push_back({columns, floats ? Precision::fp32 : program_.precision_});
    return {{static_cast<int>(program_.buffers_.size()) - 1, 0}, 0, columns};
  }

  // Makes `side` a product's share of x·w + b.
  SidePlan side(Side& side, const Input& x, const Weights& of) {
    const int columns = padded(of.width);
    const auto line = static_cast<std::size_t>(columns);
    side.a_group = x.group;
    side.depth = x.depth;
    side.w_group = of.copies == 1 ? 0 : static_cast<std::size_t>(x.depth) * line;
    side.bias_group = of.copies == 1 ? 0 : columns;
    const std::size_t w = packing_.matrices(of, x.depth, columns);
    return {x.at, w, packing_.rows(of.b, of.width, line, of.copies)};
  }

  ProductPlan product(const std::string& name, const Input& x, const Weights& of, Epilogue epilogue) {
    ProductPlan plan;
    plan.name = name;
    plan.main = side(plan.product.main, x, of);
    plan.product.epilogue = epilogue;
    plan.product.gamma = config_.gamma;
    plan.product.groups = static_cast<int>(of.copies);
    plan.product.columns = padded(of.width);
    plan.product.used = whole(of.width);
    return plan;
  }

  // Adds a product, in one launch with the last one if `joined` and there is room: it does not read what they
  // write. Its output is a buffer of its own where it has none. Returns where that is.
  Input add(ProductPlan plan, bool joined = false, bool floats = false) {
    Product& product = plan.product;
    if (plan.out.buffer < 0) {
      plan.out = buffer(product.groups * product.columns, floats).at;
      product.out_group = product.groups > 1 ? product.columns : 0;
    }
    const Input out{plan.out, product.out_group, product.columns};
    auto* const last = joined ? std::get_if<ProductsPlan>(&program_.steps_.back()) : nullptr;
    if (last != nullptr && last->products.size() < kMostTogether) {
      last->products.push_back(std::move(plan));
    } else {
      program_.steps_.push_back(ProductsPlan{{std::move(plan)}});
    }
    return out;
  }

  void inputs() {
    const int general = padded(config_.general), prior = config_.use_ppnet ? padded(config_.prior) : 0;
    x2_ = buffer(general + prior);
    o_ = {x2_.at, 0, general};
    CopyPlan copy;
    if (config_.use_epnet) {
      const std::size_t beside = config_.epnet_general ? config_.general : 0;
      const int width = padded(config_.domain + beside);
      x1_ = buffer(width);
      // The first of two neighbours is not padded: the second begins there, and has the zeros of both.
      const int domain = whole(config_.domain);
      copy.copies.push_back({Source::domain, domain, beside > 0 ? domain : width, x1_.at});
      if (beside > 0)
        copy.copies.push_back({Source::general, whole(beside), width - domain, {x1_.at.buffer, domain}});
      floats_ = buffer(general, true).at;
      copy.copies.push_back({Source::general, whole(config_.general), general, floats_});
    } else {
      copy.copies.push_back({Source::general, whole(config_.general), general, o_.at});
    }
    if (prior > 0)
      copy.copies.push_back({Source::prior, whole(config_.prior), prior, {x2_.at.buffer, general}});
    program_.steps_.push_back(std::move(copy));
  }

  void epnet() {
    const GateTensors& gate = tensors_.epnet.front();
    const Input between = add(product(
        gate.name + ".w1", x1_, {gate.w1, gate.b1, gate.into, gate.hidden, gate.hidden}, Epilogue::relu));
    ProductPlan second = product(gate.name + ".w2", between,
                                 {gate.w2, gate.b2, gate.hidden, gate.out, gate.out}, Epilogue::gate_times);
    second.times = floats_;
    second.out = o_.at;
    add(std::move(second));
  }

  // The first layers of all gates as one product over [o | prior]; then the second layers of those that
  // groups share.
  void gates() {
    std::vector<int> used;  // of each kWhole columns
    for (const GateTensors& gate : tensors_.gates) {
      hidden_.push_back({{-1, static_cast<int>(used.size()) * kWhole}, 0, padded(gate.hidden)});
      for (int left = whole(gate.hidden); left > 0; left -= kWhole) used.push_back(std::min(left, kWhole));
    }
    const auto depth = static_cast<std::size_t>(x2_.depth), general = static_cast<std::size_t>(o_.depth),
               columns = used.size() * kWhole;
    std::vector<float> w(depth * columns), b(columns);
    for (std::size_t l = 0; l < tensors_.gates.size(); ++l) {
      const GateTensors& gate = tensors_.gates[l];
      const auto at = static_cast<std::size_t>(hidden_[l].at.column);
      for (std::size_t r = 0; r < gate.into; ++r) {
        const std::size_t to = r < config_.prior ? general + r : r - config_.prior;
        std::copy_n(gate.w1 + r * gate.hidden, gate.hidden, w.data() + to * columns + at);
      }
      std::copy_n(gate.b1, gate.hidden, b.data() + at);
    }
    ProductPlan first =
        product("ppnet.w1", x2_, {w.data(), b.data(), depth, columns, columns}, Epilogue::relu);
    first.used_by_whole = packing_.rows(used.data(), used.size(), used.size(), 1);
    const int made = add(std::move(first)).at.buffer;
    for (Input& hidden : hidden_) hidden.at.buffer = made;
    bool joined = false;  // all of them read what `first` has made
    for (std::size_t l = 0; l < tensors_.gates.size(); ++l) {
      const bool feeds = config_.input_gates && l == 0;
      if (!feeds && config_.group_gates) {
        deltas_.push_back({});
        continue;
      }
      const GateTensors& gate = tensors_.gates[l];
      ProductPlan second = product(gate.name + ".w2", hidden_[l], second_of(gate),
                                   feeds ? Epilogue::gate_times : Epilogue::gate);
      if (feeds) second.times = o_.at;
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
    const Weights of{mix.w, mix.b, mix.in, mix.out, mix.out};
    z_ = add(product("mix", o_, of, Epilogue::none), config_.use_ppnet, true).at;
  }

  // One layer of so many networks side by side.
  static Weights all_of(const LayerTensors& layer, std::size_t networks) {
    return {layer.w, layer.b, layer.in, layer.out, layer.out, networks, layer.in * layer.out};
  }

  void layers() {
    h_ = config_.use_ppnet && config_.input_gates ? deltas_.front() : o_;
    for (std::size_t l = 0; l < config_.layers.size(); ++l) {
      const LayerTensors& layer = tensors_.experts[l];
      ProductPlan plan = product(layer.name, h_, all_of(layer, config_.groups()), Epilogue::relu);
      const std::size_t gate = l + (config_.input_gates ? 1 : 0);
      if (config_.use_ppnet && gate < tensors_.gates.size()) {
        if (config_.group_gates) {
          plan.product.epilogue = Epilogue::relu_gated;
          plan.gate = side(plan.product.gate, hidden_[gate], second_of(tensors_.gates[gate]));
        } else {
          plan.product.epilogue = Epilogue::relu_times;
          plan.times = deltas_[gate].at;
        }
      }
      // Without gates the logits are the launch before, which the first layer does not read.
      h_ = add(std::move(plan), l == 0 && !config_.use_ppnet && !config_.by_task,
               l + 1 == config_.layers.size());
    }
  }

  void towers() {
    const bool alone = tensors_.towers.size() == 1;
    const auto tasks = static_cast<int>(config_.tasks);
    Input x{buffer(tasks * h_.depth, alone).at, h_.depth, h_.depth};
    program_.steps_.push_back(MixPlan{z_, h_.at, x.at, static_cast<int>(config_.experts), h_.depth, tasks});
    for (std::size_t i = 0; i + 1 < tensors_.towers.size(); ++i) {
      const LayerTensors& layer = tensors_.towers[i];
      x = add(product(layer.name, x, all_of(layer, config_.tasks), Epilogue::relu), false,
              i + 2 == tensors_.towers.size());
    }
    score(tensors_.towers.back(), x);
  }

  void score(const LayerTensors& layer, const Input& h) {
    const std::size_t tasks = config_.tasks;
    const std::size_t w = packing_.rows(layer.w, layer.in, layer.in, tasks),
                      b = packing_.rows(layer.b, tasks, tasks, 1);
    program_.steps_.push_back(ScorePlan{h.at, h.depth, whole(layer.in), static_cast<int>(tasks), w, b});
  }

  Program& program_;
  const DenseConfig& config_;
  const ModelTensors& tensors_;
  Packing packing_;
  Input x1_, x2_, o_;          // [domain | general], [o | prior], and of that o
  Place floats_;               // general in float32, for EPNet to multiply
  std::vector<Input> hidden_;  // of each gate
  std::vector<Input> deltas_;  // of each gate that groups share
  Place z_;
  Input h_;
};

Program::Program(const DenseConfig& config, const ModelTensors& tensors, Precision precision)
    : config_(config), precision_(precision) {
  Builder(*this, tensors).build();
}

}  // namespace pepnet::cuda
