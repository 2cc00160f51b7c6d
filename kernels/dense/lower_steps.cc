// The steps of a plan, in order: what is one group wide by its depth in the network, and what has several
// group by group, so that one expert's values are still in the caches when its next layer reads them.
#include <algorithm>
#include <utility>

#include "dense/lower.h"
#include "dense/operations/rows.h"

namespace pepnet::engine {

using network::FusedProduct;
using network::Slice;

namespace {

// What follows a mix is one chain for each of its groups up to this many bytes of weights; beyond, threads
// share its products.
constexpr std::size_t kChainBytes = std::size_t{256} << 10;

}  // namespace

Lowering::Lowering(const network::Network& network, const Tensors& tensors, const Ops& main, const Ops& small,
                   const DenseOptions& options, Packer& packer)
    : network_(network),
      tensors_(tensors),
      main_(main),
      small_(small),
      options_(options),
      packer_(packer),
      fused_(network::fuse(network)) {}

Plan Lowering::plan() {
  for (network::ValueId i = 0; i < network::kInputs; ++i) build_.plan.widths[i] = network_.shape(i).width;
  build_.plan.scores = network_.scores();
  find_readers();
  find_precisions();
  find_uses();
  find_homes();
  emit_inputs();
  emit_all();
  emit_heads();
  return std::move(build_.plan);
}

void Lowering::emit_inputs() {
  build_.begin_chain();
  for (auto& [key, found] : arrangements_) {
    const bool as_bf16 = key.second;
    if (found.shared.empty() && found.rest.empty()) continue;
    const Ops& converter = as_bf16 ? main_ : small_;
    const auto at = [&](std::size_t k) { return Ref{found.at.buffer, k * value_bytes(as_bf16)}; };
    const std::size_t step = padding(as_bf16);
    if (!found.shared.empty())
      build_.add(ColumnsStep{&converter, found.shared, found.rest_at, at(0), !found.read_whole});
    std::size_t rest = 0;
    for (const ColumnRun& run : found.rest) rest += run.count;
    if (rest > 0)
      build_.add(ColumnsStep{&converter, found.rest, round_up(rest, step), at(found.rest_at), false});
    const bool inputs_only = found.copied.empty() && (found.rest_at == 0 || !found.shared.empty());
    if (inputs_only && quantized() && found.read_by_main) quantize(found, found.at);
  }
  build_.end_chain();
}

void Lowering::emit_all() {
  const std::vector<std::size_t> depth = depths();
  std::vector<std::size_t> singles, lanes;
  const auto flush = [&] {
    std::stable_sort(singles.begin(), singles.end(),
                     [&](std::size_t a, std::size_t b) { return depth[a] < depth[b]; });
    for (const std::size_t node : singles) emit(node, 0);
    emit_lanes(lanes);
    singles.clear();
    lanes.clear();
  };
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    const bool lane = fused_.nodes[i].shape.groups > 1 || tail_[i];
    if (crosses(i, lanes, lane)) flush();
    (lane ? lanes : singles).push_back(i);
  }
  flush();
}

// Whether the node reads more of these than, group by group, its own group.
bool Lowering::crosses(std::size_t node, const std::vector<std::size_t>& lanes, bool lane) const {
  const Node& one = fused_.nodes[node];
  const auto is_lane = [&](network::ValueId value) {
    return value >= network::kInputs && std::ranges::find(lanes, node_of_.at(value)) != lanes.end();
  };
  for (const network::Read& read : fused_.reads(one)) {
    for (std::size_t g = 0; g < read.columns.size(); ++g) {
      for (const Slice& slice : *read.columns[g]) {
        if (!is_lane(slice.value)) continue;
        const bool own = lane && !read.across && slice.group == g && read.columns.size() == one.shape.groups;
        if (!own) return true;
      }
    }
  }
  return false;
}

std::vector<std::size_t> Lowering::depths() const {
  std::vector<std::size_t> depth(fused_.nodes.size(), 0);
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    const auto found = readers_.find(fused_.nodes[i].value);
    if (found == readers_.end()) continue;
    for (const auto& [reader, as] : found->second)
      if (reader != kHead) depth[reader] = std::max(depth[reader], depth[i] + 1);
  }
  return depth;
}

void Lowering::emit_lanes(const std::vector<std::size_t>& nodes) {
  std::size_t groups = 0;
  for (const std::size_t node : nodes) groups = std::max(groups, fused_.nodes[node].shape.groups);
  const bool chains = std::ranges::all_of(nodes, [&](std::size_t node) { return tail_[node]; }) &&
                      tail_bytes(nodes) <= kChainBytes;
  for (std::size_t g = 0; g < groups; ++g) {
    const bool chain = chains && build_.begin_chain();
    for (const std::size_t node : nodes)
      if (g < fused_.nodes[node].shape.groups) emit(node, g);
    if (chain) build_.end_chain();
  }
}

// Bytes of the weights of one group.
std::size_t Lowering::tail_bytes(const std::vector<std::size_t>& nodes) const {
  std::size_t bytes = 0;
  for (const std::size_t node : nodes) {
    if (const auto* const product = std::get_if<FusedProduct>(&fused_.nodes[node].does))
      bytes += product->main.in * product->main.out * sizeof(float);
  }
  return bytes;
}

void Lowering::emit(std::size_t node, std::size_t group) {
  const Node& one = fused_.nodes[node];
  if (!one.live[group]) return;
  if (fused_.scores.contains({one.value, group})) return emit_score(node, group);
  if (std::holds_alternative<FusedProduct>(one.does)) return emit_product(node, group);
  const network::Does& does = *std::get<const network::Does*>(one.does);
  if (const auto* const mix = std::get_if<network::Mix>(&does)) return emit_mix(one, *mix, group);
  emit_row_operation(one, group);
}

void Lowering::emit_product(std::size_t node, std::size_t group) {
  const Node& one = fused_.nodes[node];
  const auto& product = std::get<FusedProduct>(one.does);
  const Home home = homes_.at({one.value, group});
  const bool narrow = home.reads_values;
  ProductStep step;
  step.ops = &ops_of(node);
  step.epilogue = product.main.epilogue();
  step.function = product.main.activation.function;
  step.alpha = product.main.activation.alpha;
  step.slope = slopes(product.main.activation.slope, product.main.slope, product.main.out);
  step.gamma = product.gate ? *product.gate->gamma : product.main.gamma.value_or(1.0F);
  const Factored main = factored(node, product.main, group, home.feeds, true);
  step.w = main.w;
  step.a = main.a;
  step.prefix = main.prefix;
  if (product.gate) {
    step.factor = pepnet::Factor::gated;
    const Factored gate = factored(node, *product.gate, group, home.feeds, false);
    step.gate_w = gate.w;
    step.gate_a = gate.a;
  }
  const auto of_group = [&](const std::vector<Columns>& columns) {
    return float_columns(columns.size() == 1 ? columns.front() : columns[group]);
  };
  if (!product.times.empty()) {
    step.factor = pepnet::Factor::rows;
    step.mul = of_group(product.times);
  }
  if (!product.plus.empty()) step.plus = of_group(product.plus);
  step.out_bf16 = narrow;
  step.out = narrow ? home.values : home.floats;
  if (narrow && home.reads_floats) step.out2 = home.floats;
  build_.add(step);
}

// As the bias of a matrix without rows; null where there are none.
const PackedMatrix* Lowering::slopes(const network::TensorName& name, std::size_t first, std::size_t width) {
  if (name.empty()) return nullptr;
  return packer_.add({.name = name, .bias = tensor(name) + first, .out = width, .out_multiple = multiple()},
                     Precision::fp32);
}

void Lowering::emit_score(std::size_t node, std::size_t group) {
  const Node& one = fused_.nodes[node];
  const network::Factor& factor = std::get<FusedProduct>(one.does).main;
  const network::WeightsPlace& place = factor.place_of(group);
  // One column of weights is packed as the bias of a matrix without rows: its values lie side by side.
  const PackedMatrix* const w =
      packer_.add({.name = factor.w, .bias = tensor(factor.w) + place.w, .out = factor.in}, Precision::fp32);
  const float b = factor.b.empty() ? 0.0F : tensor(factor.b)[place.b];
  build_.add(
      ScoreStep{&small_, float_columns(factor.x_of(group)), w, b, fused_.scores.at({one.value, group})});
}

void Lowering::emit_mix(const Node& node, const network::Mix& mix, std::size_t group) {
  const network::Shape& h = fused_.shapes[mix.h];
  const std::size_t experts = fused_.shapes[mix.z].width, padded_width = round_up(h.width, kPanel);
  std::vector<Ref> outputs;
  for (std::size_t e = 0; e < experts; ++e)
    outputs.push_back(
        float_columns(fused_.columns->of(mix.h, mix.choices.empty() ? e : mix.choices[group][e])));
  // The kernel steps from one expert's output to the next's.
  bool even = true;
  const std::size_t step = experts > 1 ? outputs[1].offset - outputs[0].offset : 0;
  for (std::size_t e = 1; e < experts; ++e) {
    even = even && !outputs[e].input() && outputs[e].buffer == outputs[0].buffer &&
           outputs[e].offset == outputs[0].offset + e * step;
  }
  Ref first = outputs.front();
  std::size_t stride = step / sizeof(float);
  if (!even || first.input()) {
    first = {floats(experts * padded_width), 0};
    stride = padded_width;
    for (std::size_t e = 0; e < experts; ++e) {
      build_.add(CopyStep{&small_, outputs[e], {first.buffer, e * stride * sizeof(float)}, h.width, stride});
    }
  }
  const Home& home = homes_.at({node.value, group});
  // It pads its result to whole panels.
  const bool pad = home.feeds && padding(false) != kPanel;
  const Ref out = pad ? Ref{floats(padded_width), 0} : home.floats;
  build_.add(MixStep{&small_,
                     float_columns(fused_.columns->of(mix.z, group)),
                     first,
                     out,
                     {.expert_stride = stride, .experts = experts, .width = h.width}});
  if (pad) build_.add(CopyStep{&small_, out, home.floats, h.width, padded(h.width)});
  finish_rows({node.value, group});
}

// What products read of a value that was made in float32.
void Lowering::finish_rows(Piece piece) {
  const Home& home = homes_.at(piece);
  const std::size_t width = fused_.shapes[piece.first].width;
  if (home.reads_values) build_.add(CopyStep{&main_, home.floats, home.values, width, padded(width)});
}

void Lowering::emit_row_operation(const Node& node, std::size_t group) {
  const network::Does& does = *std::get<const network::Does*>(node.does);
  std::vector<Ref> reads;
  std::vector<network::Shape> shapes;
  const auto operands = network::operands_of(does);
  const std::vector<network::Read> all = fused_.reads(node);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::vector<Columns>& columns = all[i].columns;
    shapes.push_back(fused_.shapes[operands[i]]);
    reads.push_back(float_columns(all[i].across         ? side_by_side(columns)
                                  : columns.size() == 1 ? columns.front()
                                                        : columns[group]));
  }
  const Home& home = homes_.at({node.value, group});
  const RowContext context{small_, shapes, node.shape.width,
                           [this](const auto& name) { return tensor(name); }};
  build_.add(RowStep{row_operation(does, context), std::move(reads), home.floats, 0, node.shape.width,
                     round_up(node.shape.width, padding(false))});
  finish_rows({node.value, group});
}

void Lowering::emit_heads() {
  std::size_t column = 0;
  for (const network::Head& head : network_.heads()) {
    const network::Shape& shape = network_.shape(head.of);
    for (std::size_t g = 0; g < shape.groups; ++g) {
      for (const auto& [columns, at] : head_columns(head, g, column + g * shape.width)) {
        const std::size_t width = network::width_of(*columns);
        build_.add(RowStep{
            head_operation(head.kind, width, small_), {float_columns(columns)}, {}, at, width, width});
      }
    }
    column += shape.size();
  }
}

// The columns of a group of a head that no score step computes, each with its column of the scores. A softmax
// is one of all.
std::vector<std::pair<network::Columns, std::size_t>> Lowering::head_columns(const network::Head& head,
                                                                             std::size_t group,
                                                                             std::size_t column) {
  const Columns all = fused_.columns->of(head.of, group);
  if (head.kind == network::HeadKind::softmax) return {{all, column}};
  std::vector<std::pair<Columns, std::size_t>> found;
  for (const Slice& slice : *all) {
    if (!fused_.scores.contains({slice.value, slice.group}))
      found.emplace_back(fused_.columns->one({slice}), column);
    column += slice.width();
  }
  return found;
}

}  // namespace pepnet::engine
