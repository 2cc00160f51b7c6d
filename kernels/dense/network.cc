#include "dense/network.h"

#include <utility>

#include "dense/builder.h"

namespace pepnet::engine {
namespace {

// A task's mix, tower and score are one chain up to this many bytes of weights; beyond, threads share them.
constexpr std::size_t kChainBytes = std::size_t{256} << 10;

class Network {
 public:
  Network(const DenseConfig& config, const ModelTensors& tensors, const Ops& main, const Ops& small,
          const DenseOptions& options, Packer& packer)
      : config_(config), tensors_(tensors), options_(options), build_(main, small, packer) {}

  Plan plan() {
    Plan& plan = build_.plan.plan;
    plan.general = config_.general;
    plan.domain = config_.domain;
    plan.prior = config_.prior;
    plan.tasks = config_.tasks;
    plan.gamma = config_.gamma;
    inputs();
    if (config_.use_epnet) epnet();
    if (config_.use_ppnet) gates();
    if (!config_.by_task) mix();
    for (std::size_t g = 0; g < config_.groups(); ++g) network_of(g);
    if (!config_.by_task) {
      for (std::size_t t = 0; t < config_.tasks; ++t) tower(t);
    }
    return build_.plan.finish();
  }

 private:
  bool shared_gates() const { return !config_.group_gates && config_.groups() > 1; }
  bool fine_gates() const { return build_.fine() && shared_gates(); }
  // Without EPNet o is the caller's `general`, whose rows have no padding for a product to read.
  bool fine_mix() const { return build_.fine() && !config_.by_task && config_.use_epnet; }
  std::size_t prior_at() const { return build_.padded(config_.general); }

  // The columns of EPNet's gate input: first those that the rows of one request share, then the others.
  void split_columns() {
    if (config_.domain > 0) prefix_.push_back({Input::domain, 0, config_.domain});
    if (!config_.epnet_general) return;
    std::size_t next = 0;
    const auto rest_until = [&](std::size_t end) {
      if (end > next) rest_.push_back({Input::general, next, end - next});
    };
    for (const auto& [begin, end] : options_.prefix_general) {
      if (begin == end) continue;
      rest_until(begin);
      prefix_.push_back({Input::general, begin, end - begin});
      next = end;
    }
    rest_until(config_.general);
  }

  static std::size_t width_of(const std::vector<ColumnRun>& runs) {
    std::size_t width = 0;
    for (const ColumnRun& run : runs) width += run.count;
    return width;
  }

  ColumnsStep columns(std::vector<ColumnRun> runs, BufferId buffer, std::size_t at,
                      std::size_t padded) const {
    return {&build_.converter(), std::move(runs), padded, {buffer, at * build_.value_bytes()}, false};
  }

  void inputs() {
    const std::size_t prior = config_.use_ppnet ? config_.prior : 0;
    x2_ = build_.values(prior_at() + build_.padded(prior));
    build_.plan.begin_chain();
    if (config_.use_epnet) {
      split_columns();
      rest_at_ = round_up(width_of(prefix_), build_.padded(1));
      const std::size_t rest = build_.padded(width_of(rest_));
      x1_width_ = rest_at_ + width_of(rest_);
      x1_ = {build_.values(rest_at_ + rest), 0};
      ColumnsStep first = columns(prefix_, x1_.buffer, 0, rest_at_);
      first.shared = !build_.quantized();
      build_.plan.add("inputs", std::move(first));
      if (rest > 0) build_.plan.add("inputs", columns(rest_, x1_.buffer, rest_at_, rest));
      if (build_.quantized()) x1_ = build_.quantize("inputs", x1_, x1_width_);
    } else {
      build_.plan.add("inputs", columns({{Input::general, 0, config_.general}}, x2_, 0, prior_at()));
    }
    if (prior > 0) {
      build_.plan.add("inputs", columns({{Input::prior, 0, prior}}, x2_, prior_at(), build_.padded(prior)));
    }
    build_.plan.end_chain();
    o_floats_ = config_.use_epnet ? Ref{x2_, 0} : Ref{kGeneralInput, 0};
  }

  // Which row of epnet.gate.w1, [domain ; general], is which k.
  void epnet_rows(const std::vector<ColumnRun>& runs, std::size_t k, std::vector<RowRun>& rows) const {
    for (const ColumnRun& run : runs) {
      rows.push_back({run.begin + (run.input == Input::general ? config_.domain : 0), run.count, k});
      k += run.count;
    }
  }

  void epnet() {
    const GateTensors& gate = tensors_.epnet.front();
    std::vector<RowRun> shared;
    epnet_rows(prefix_, 0, shared);
    std::vector<RowRun> rows = shared;
    epnet_rows(rest_, rest_at_, rows);
    Multiply first{gate.name + ".w1", x1_};
    first.epilogue = Epilogue::relu;
    if (!build_.quantized()) {
      first.shared_k = rest_at_;
      const PackedMatrix* w =
          build_.matrix(first.name, gate.w1, gate.hidden, nullptr, rest_at_, gate.hidden, true, shared);
      build_.plan.plan.prefix = SharedPrefix{columns(prefix_, kNoBuffer, 0, rest_at_), w};
    }
    first.w = build_.matrix(first.name, gate.w1, gate.hidden, gate.b1, x1_width_, gate.hidden, true, rows);
    const Value hidden = build_.multiply(first, {.act = true});
    Multiply second{gate.name + ".w2", hidden.act};
    second.w = build_.matrix(second.name, gate.w2, gate.out, gate.b2, gate.hidden, gate.out, true);
    second.epilogue = Epilogue::gate_times;
    second.mul = {kGeneralInput, 0};
    Ref copy;
    const bool gated = config_.use_ppnet && config_.input_gates;
    if (build_.rounded() && (gated || fine_mix())) {
      copy = o_floats_ = {build_.floats(second.w->panels * kPanel), 0};
    }
    build_.multiply_to(second, {x2_, 0}, copy);
  }

  // o as products read it.
  Ref o() {
    if (!build_.quantized()) return {x2_, 0};
    if (o_quantized_.none()) o_quantized_ = build_.quantize("o", {x2_, 0}, config_.general);
    return o_quantized_;
  }

  void gates() {
    const std::size_t in = prior_at() + config_.prior;
    const Ref x = build_.quantized() ? build_.quantize("o", {x2_, 0}, in) : Ref{x2_, 0};
    const std::vector<RowRun> rows{{0, config_.prior, prior_at()}, {config_.prior, config_.general, 0}};
    for (const GateTensors& gate : tensors_.gates) {
      Multiply first{"ppnet.w1", x};
      first.w = build_.matrix(gate.name + ".w1", gate.w1, gate.hidden, gate.b1, in, gate.hidden, true, rows);
      first.epilogue = Epilogue::relu;
      const Value hidden = build_.multiply(first, {.act = !fine_gates(), .floats = fine_gates()});
      hidden_.push_back(fine_gates() ? hidden.floats : hidden.act);
    }
    if (!shared_gates()) return;
    for (std::size_t l = 0; l < tensors_.gates.size(); ++l) {
      if (config_.input_gates && l == 0) {
        deltas_.push_back({});
        gated_o_ = gated_o(0);
        continue;
      }
      Multiply second{"ppnet.w2", hidden_[l]};
      second.fine = fine_gates();
      second.w = gate_matrix(l, 0, false);
      second.epilogue = Epilogue::gate;
      deltas_.push_back(build_.multiply(second, {.floats = true}).floats);
    }
  }

  // The columns of gate l's second layer that belong to a group.
  const PackedMatrix* gate_matrix(std::size_t l, std::size_t group, bool feeds) {
    const GateTensors& gate = tensors_.gates[l];
    const std::size_t copies = config_.group_gates ? config_.groups() : 1;
    const std::size_t width = gate.out / copies;
    const std::size_t at = config_.group_gates ? group * width : 0;
    if (fine_gates())
      return build_.small_matrix(gate.name + ".w2", gate.w2, gate.b2, gate.hidden, width, feeds);
    return build_.matrix(gate.name + ".w2", gate.w2 + at, gate.out, gate.b2 + at, gate.hidden, width, feeds);
  }

  // o ⊙ δ_0: what the first layer reads when gates are on inputs.
  Ref gated_o(std::size_t group) {
    Multiply second{"ppnet.w2", hidden_[0]};
    second.fine = fine_gates();
    second.w = gate_matrix(0, group, true);
    second.epilogue = Epilogue::gate_times;
    second.mul = o_floats_;
    return build_.multiply(second, {.act = true}).act;
  }

  void mix() {
    const LayerTensors& mix = tensors_.mix;
    Multiply logits{"mix", fine_mix() ? o_floats_ : o()};
    logits.fine = fine_mix();
    logits.w = fine_mix() ? build_.small_matrix("mix.w", mix.w, mix.b, mix.in, mix.out)
                          : build_.matrix("mix.w", mix.w, mix.out, mix.b, mix.in, mix.out, false);
    z_ = build_.multiply(logits, {.floats = true}).floats;
    last_columns_ = round_up(config_.layers.back(), kPanel);
    last_ = build_.floats(config_.experts * last_columns_);
  }

  // Expert or task g: h_l = relu(h_{l-1}·W_l + b_l) ⊙ D_l. Gates on inputs are gates on outputs, one layer
  // on.
  void network_of(std::size_t g) {
    Ref x;
    if (config_.use_ppnet && config_.input_gates) {
      x = shared_gates() ? gated_o_ : gated_o(g);
    } else {
      x = o();
    }
    for (std::size_t l = 0; l < config_.layers.size(); ++l) {
      const LayerTensors& layer = tensors_.experts[l];
      const bool last = l + 1 == config_.layers.size();
      Multiply step{layer.name, x};
      step.w = build_.matrix(layer.name + ".w", layer.w + g * layer.in * layer.out, layer.out,
                             layer.b + g * layer.out, layer.in, layer.out, !last);
      step.epilogue = Epilogue::relu;
      const std::size_t gate = l + (config_.input_gates ? 1 : 0);
      if (gate < tensors_.gates.size()) {
        if (shared_gates()) {
          step.epilogue = Epilogue::relu_times;
          step.mul = deltas_[gate];
        } else {
          step.epilogue = Epilogue::relu_gated;
          step.gate_a = hidden_[gate];
          step.gate_w = gate_matrix(gate, g, !last);
        }
      }
      if (!last) {
        x = build_.multiply(step, {.act = true}).act;
      } else if (config_.by_task) {
        const Value h = build_.multiply(step, {.floats = true});
        score(tensors_.experts.back(), g, h.floats);
      } else {
        build_.multiply_floats(step, {last_, g * last_columns_ * sizeof(float)});
      }
    }
  }

  void score(const LayerTensors& layer, std::size_t task, Ref h) {
    const float* const* w = build_.vector(layer.w + task * layer.in, layer.in);
    build_.plan.add("scores", ScoreStep{&build_.small(), h, w, layer.b[task], layer.in, task});
  }

  void tower(std::size_t task) {
    std::size_t bytes = 0;
    for (const LayerTensors& layer : tensors_.towers) bytes += layer.in * layer.out * sizeof(float);
    const bool chain = bytes <= kChainBytes;
    if (chain) build_.plan.begin_chain();
    Ref h{build_.floats(last_columns_), 0};
    build_.plan.add("towers", MixStep{&build_.small(),
                                      {z_.buffer, task * config_.experts * sizeof(float)},
                                      {last_, 0},
                                      h,
                                      last_columns_,
                                      config_.experts,
                                      config_.layers.back()});
    for (std::size_t i = 0; i + 1 < tensors_.towers.size(); ++i) {
      const LayerTensors& layer = tensors_.towers[i];
      Multiply step{"towers", h};
      step.w = build_.small_matrix(layer.name + ".w", layer.w + task * layer.in * layer.out,
                                   layer.b + task * layer.out, layer.in, layer.out);
      step.epilogue = Epilogue::relu;
      h = build_.multiply_small(step);
    }
    score(tensors_.towers.back(), task, h);
    if (chain) build_.plan.end_chain();
  }

  const DenseConfig& config_;
  const ModelTensors& tensors_;
  const DenseOptions& options_;
  Builder build_;

  std::vector<ColumnRun> prefix_, rest_;
  std::size_t rest_at_ = 0, x1_width_ = 0;
  Ref x1_;                   // [prefix | rest], EPNet's gate input
  BufferId x2_ = kNoBuffer;  // [o | prior], PPNet's gate input
  Ref o_floats_, o_quantized_;
  std::vector<Ref> hidden_;    // by gate: relu(x2·w1 + b1)
  std::vector<Ref> deltas_;    // by gate, when groups share them
  Ref gated_o_;                // likewise
  Ref z_;                      // logits of the mix
  BufferId last_ = kNoBuffer;  // h_L of all experts
  std::size_t last_columns_ = 0;
};

}  // namespace

Plan build_network(const DenseConfig& config, const ModelTensors& tensors, const Ops& main, const Ops& small,
                   const DenseOptions& options, Packer& packer) {
  return Network(config, tensors, main, small, options, packer).plan();
}

}  // namespace pepnet::engine
