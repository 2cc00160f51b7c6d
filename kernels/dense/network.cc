#include <utility>

#include "dense/plan.h"

namespace pepnet::engine {
namespace {

// A task's mix, tower and score are one chain up to this many bytes of weights; beyond, threads share them.
constexpr std::size_t kChainBytes = std::size_t{256} << 10;

class Network {
 public:
  Network(const DenseConfig& config, const ModelTensors& tensors, const Ops& main, const Ops& small,
          const DenseOptions& options, Packer& packer)
      : config_(config), tensors_(tensors), main_(main), small_(small), options_(options), packer_(packer) {}

  Plan plan() {
    build_.plan.config = config_;
    inputs();
    if (config_.use_epnet) epnet();
    if (config_.use_ppnet) gates();
    if (!config_.by_task) mix();
    for (std::size_t g = 0; g < config_.groups(); ++g) network_of(g);
    if (!config_.by_task) {
      for (std::size_t t = 0; t < config_.tasks; ++t) tower(t);
    }
    return std::move(build_.plan);
  }

 private:
  bool quantized() const { return main_.activation == Activation::u8; }
  bool rounded() const { return main_.activation == Activation::bf16; }
  // Whether small products whose errors weigh most stay in float32: the mix, and second layers of shared
  // gates. They are 4 % of the work and a quarter of bf16's error (the variance of scores). Beside AMX
  // float32 is too slow for it.
  bool fine() const { return rounded() && main_.isa != Isa::amx; }
  bool shared_gates() const { return !config_.group_gates && config_.groups() > 1; }
  bool fine_gates() const { return fine() && shared_gates(); }
  // Without EPNet o is the caller's `general`, whose rows have no padding for a product to read.
  bool fine_mix() const { return fine() && !config_.by_task && config_.use_epnet; }

  // How far rows are padded: to whole steps of a product, or, where quantising does that, to whole panels.
  std::size_t multiple() const { return quantized() ? kPanel : k_multiple(main_.precision); }
  std::size_t padded(std::size_t width) const { return round_up(width, multiple()); }
  std::size_t prior_at() const { return padded(config_.general); }

  // Buffers of `columns` values that are written as activations, or as float32 that are then quantised.
  std::size_t value_bytes() const { return rounded() ? 2 : 4; }
  BufferId values(std::size_t columns) { return build_.buffer(columns * value_bytes()); }
  BufferId floats(std::size_t columns) { return build_.buffer(columns * sizeof(float)); }

  // `feeds`: the result is read by a product of the main precision. `fine`: for the small ops.
  const PackedMatrix* matrix(MatrixSpec spec, bool feeds, bool fine = false) {
    spec.out_multiple = feeds ? multiple() : kPanel;
    return packer_.add(std::move(spec), fine ? Precision::fp32 : main_.precision);
  }
  const PackedMatrix* matrix(const LayerTensors& layer, std::size_t copy, bool feeds, bool fine = false) {
    const float *const w = layer.w + copy * layer.in * layer.out, *const b = layer.b + copy * layer.out;
    return matrix({layer.name + ".w", w, layer.out, b, layer.in, layer.out}, feeds, fine);
  }

  // The first `width` of float32 columns, quantised.
  Ref quantize(Ref from, std::size_t width) {
    const std::size_t columns = round_up(width, k_multiple(main_.precision));
    const Ref to{build_.buffer(columns, true), 0};
    build_.add(QuantizeStep{&main_, from, to, width, columns});
    return to;
  }

  // A product by the main ops unless `step` names others. Its result is float32 at `out`, or, if `rounds`, in
  // the format of `values` with a float32 copy at `copy`, unless that is none.
  void multiply_to(ProductStep step, Ref out, bool rounds = false, Ref copy = {}) {
    if (step.ops == nullptr) step.ops = &main_;
    step.out = out;
    step.out2 = copy;
    step.out_bf16 = rounds;
    build_.add(step);
  }
  // The same to a buffer of its own: as products read it if it `feeds` one, else in float32.
  Ref multiply(const ProductStep& step, bool feeds) {
    const std::size_t columns = step.w->panels * kPanel;
    const bool rounds = feeds && rounded();
    const Ref to{rounds ? values(columns) : floats(columns), 0};
    multiply_to(step, to, rounds);
    return feeds && quantized() ? quantize(to, step.w->out) : to;
  }

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

  // float32 or bf16: what is written before it is quantised, if it is.
  ColumnsStep columns(std::vector<ColumnRun> runs, BufferId buffer, std::size_t at,
                      std::size_t padded) const {
    const Ops& converter = quantized() ? small_ : main_;
    return {&converter, std::move(runs), padded, {buffer, at * value_bytes()}, false};
  }

  void inputs() {
    const std::size_t prior = config_.use_ppnet ? config_.prior : 0;
    x2_ = values(prior_at() + padded(prior));
    build_.begin_chain();
    if (config_.use_epnet) {
      split_columns();
      rest_at_ = padded(width_of(prefix_));
      const std::size_t rest = padded(width_of(rest_));
      x1_width_ = rest_at_ + width_of(rest_);
      x1_ = {values(rest_at_ + rest), 0};
      ColumnsStep first = columns(prefix_, x1_.buffer, 0, rest_at_);
      first.shared = !quantized();
      build_.add(std::move(first));
      if (rest > 0) build_.add(columns(rest_, x1_.buffer, rest_at_, rest));
      if (quantized()) x1_ = quantize(x1_, x1_width_);
    } else {
      build_.add(columns({{Input::general, 0, config_.general}}, x2_, 0, prior_at()));
    }
    if (prior > 0) build_.add(columns({{Input::prior, 0, prior}}, x2_, prior_at(), padded(prior)));
    build_.end_chain();
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
    MatrixSpec w1{gate.name + ".w1", gate.w1, gate.hidden, nullptr, rest_at_, gate.hidden};
    epnet_rows(prefix_, 0, w1.runs);
    ProductStep first{.epilogue = Epilogue::relu, .a = x1_};
    if (!quantized()) {
      first.shared_k = rest_at_;
      build_.plan.prefix = SharedPrefix{columns(prefix_, kNoBuffer, 0, rest_at_), matrix(w1, true)};
    }
    w1.bias = gate.b1;
    w1.in = x1_width_;
    epnet_rows(rest_, rest_at_, w1.runs);
    first.w = matrix(w1, true);
    const Ref hidden = multiply(first, true);
    const ProductStep second{.epilogue = Epilogue::gate_times,
                             .w = gate_matrix(gate, 0, gate.out, true),
                             .a = hidden,
                             .mul = {kGeneralInput, 0}};
    const bool gated = config_.use_ppnet && config_.input_gates;
    Ref copy;
    if (rounded() && (gated || fine_mix())) {
      copy = o_floats_ = {floats(second.w->panels * kPanel), 0};
    }
    multiply_to(second, {x2_, 0}, rounded(), copy);
  }

  // o as products read it.
  Ref o() {
    if (!quantized()) return {x2_, 0};
    if (o_quantized_.none()) o_quantized_ = quantize({x2_, 0}, config_.general);
    return o_quantized_;
  }

  void gates() {
    const std::size_t in = prior_at() + config_.prior;
    const Ref x = quantized() ? quantize({x2_, 0}, in) : Ref{x2_, 0};
    for (const GateTensors& gate : tensors_.gates) {
      MatrixSpec w1{gate.name + ".w1", gate.w1, gate.hidden, gate.b1, in, gate.hidden};
      w1.runs = {{0, config_.prior, prior_at()}, {config_.prior, config_.general, 0}};
      const ProductStep first{.epilogue = Epilogue::relu, .w = matrix(w1, true), .a = x};
      hidden_.push_back(multiply(first, !fine_gates()));
    }
    if (!shared_gates()) return;
    for (std::size_t l = 0; l < tensors_.gates.size(); ++l) {
      if (config_.input_gates && l == 0) {
        deltas_.push_back({});
        gated_o_ = gated_o(0);
        continue;
      }
      deltas_.push_back(multiply(second_layer(Epilogue::gate, l, 0, false), false));
    }
  }

  // `width` columns of a gate's second layer from `at` on.
  const PackedMatrix* gate_matrix(const GateTensors& gate, std::size_t at, std::size_t width, bool feeds,
                                  bool fine = false) {
    return matrix({gate.name + ".w2", gate.w2 + at, gate.out, gate.b2 + at, gate.hidden, width}, feeds, fine);
  }
  // The columns of PPNet's gate l that belong to a group.
  const PackedMatrix* gate_matrix(std::size_t l, std::size_t group, bool feeds) {
    const GateTensors& gate = tensors_.gates[l];
    const std::size_t width = config_.group_gates ? gate.out / config_.groups() : gate.out;
    return gate_matrix(gate, config_.group_gates ? group * width : 0, width, feeds, fine_gates());
  }

  // PPNet's gate l for a group, as a product of its own.
  ProductStep second_layer(Epilogue epilogue, std::size_t l, std::size_t group, bool feeds) {
    return {fine_gates() ? &small_ : &main_, epilogue, gate_matrix(l, group, feeds), hidden_[l]};
  }

  // o ⊙ δ_0: what the first layer reads when gates are on inputs.
  Ref gated_o(std::size_t group) {
    ProductStep second = second_layer(Epilogue::gate_times, 0, group, true);
    second.mul = o_floats_;
    return multiply(second, true);
  }

  void mix() {
    const ProductStep logits{.ops = fine_mix() ? &small_ : &main_,
                             .w = matrix(tensors_.mix, 0, false, fine_mix()),
                             .a = fine_mix() ? o_floats_ : o()};
    z_ = multiply(logits, false);
    last_columns_ = round_up(config_.layers.back(), kPanel);
    last_ = floats(config_.experts * last_columns_);
  }

  // Expert or task g: h_l = relu(h_{l-1}·W_l + b_l) ⊙ D_l. Gates on inputs are gates on outputs, one layer
  // on.
  void network_of(std::size_t g) {
    const bool gated = config_.use_ppnet && config_.input_gates;
    Ref x = !gated ? o() : shared_gates() ? gated_o_ : gated_o(g);
    for (std::size_t l = 0; l < config_.layers.size(); ++l) {
      const LayerTensors& layer = tensors_.experts[l];
      const bool last = l + 1 == config_.layers.size();
      ProductStep step{.epilogue = Epilogue::relu, .w = matrix(layer, g, !last), .a = x};
      const std::size_t gate = l + (config_.input_gates ? 1 : 0);
      if (gate < tensors_.gates.size() && shared_gates()) {
        step.epilogue = Epilogue::relu_times;
        step.mul = deltas_[gate];
      } else if (gate < tensors_.gates.size()) {
        step.epilogue = Epilogue::relu_gated;
        step.gate_a = hidden_[gate];
        step.gate_w = gate_matrix(gate, g, !last);
      }
      if (!last) {
        x = multiply(step, true);
      } else if (config_.by_task) {
        score(tensors_.experts.back(), g, multiply(step, false));
      } else {
        multiply_to(step, {last_, g * last_columns_ * sizeof(float)});
      }
    }
  }

  void score(const LayerTensors& layer, std::size_t task, Ref h) {
    // One column of weights is packed as the bias of a matrix without rows: its values lie side by side.
    const PackedMatrix* const w = packer_.add(
        {.name = layer.name + ".w", .bias = layer.w + task * layer.in, .out = layer.in}, Precision::fp32);
    build_.add(ScoreStep{&small_, h, w, layer.b[task], task});
  }

  void tower(std::size_t task) {
    std::size_t bytes = 0;
    for (const LayerTensors& layer : tensors_.towers) bytes += layer.in * layer.out * sizeof(float);
    const bool chain = bytes <= kChainBytes;
    if (chain) build_.begin_chain();
    Ref h{floats(last_columns_), 0};
    build_.add(MixStep{
        &small_,
        {z_.buffer, task * config_.experts * sizeof(float)},
        {last_, 0},
        h,
        {.expert_stride = last_columns_, .experts = config_.experts, .width = config_.layers.back()}});
    for (std::size_t i = 0; i + 1 < tensors_.towers.size(); ++i) {
      const ProductStep step{.ops = &small_,
                             .epilogue = Epilogue::relu,
                             .w = matrix(tensors_.towers[i], task, false, true),
                             .a = h};
      h = {floats(step.w->panels * kPanel), 0};
      multiply_to(step, h);
    }
    score(tensors_.towers.back(), task, h);
    if (chain) build_.end_chain();
  }

  const DenseConfig& config_;
  const ModelTensors& tensors_;
  const Ops& main_;
  const Ops& small_;
  const DenseOptions& options_;
  Packer& packer_;
  PlanBuilder build_;

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
