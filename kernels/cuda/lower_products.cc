// Products: what each multiplies, its packed weights, and which are one launch.
#include <algorithm>
#include <set>

#include "cuda/lower.h"
#include "cuda/progression.h"

namespace pepnet::cuda {

using network::Factor;
using network::FusedProduct;
using network::Node;

namespace {

bool operator==(const RowRun& a, const RowRun& b) {
  return a.source == b.source && a.count == b.count && a.k == b.k;
}

}  // namespace

void Lowering::emit_products(const std::vector<std::size_t>& nodes, bool gated) {
  std::vector<ProductPlan> plans;
  std::set<std::size_t> done;
  for (const std::size_t i : nodes) {
    if (std::get<FusedProduct>(fused_.nodes[i].does).gate.has_value() != gated || done.contains(i)) continue;
    const auto together = std::ranges::find_if(
        joined_, [&](const auto& joined) { return std::ranges::find(joined, i) != joined.end(); });
    if (together == joined_.end()) {
      emit_product(i, plans);
    } else {
      emit_joined(*together, plans);
      done.insert(together->begin(), together->end());
    }
  }
  flush_copies();
  for (std::size_t first = 0; first < plans.size(); first += kMostTogether) {
    ProductsPlan launch;
    for (std::size_t i = first; i < std::min<std::size_t>(plans.size(), first + kMostTogether); ++i)
      launch.products.push_back(std::move(plans[i]));
    program_.steps_.push_back(std::move(launch));
  }
}

Lowering::Multiplied Lowering::multiplied(const Factor& factor, std::size_t group) {
  const network::Columns columns = factor.x_of(group);
  if (const auto piece = fused_.whole_piece(columns)) {
    return {homes_.at(*piece).values.value(), padded(factor.in), {{0, factor.in, 0}}};
  }
  Arrangement& found = arrangements_.at(columns);
  if (!found.copies_made) {
    for (const auto& [slice, k] : found.copied)
      copies_.push_back({place(slice, Format::values),
                         0,
                         whole(slice.width()),
                         padded(slice.width()),
                         {found.at.buffer, k}});
    found.copies_made = true;
  }
  return {found.at, found.depth, found.runs};
}

SidePlan Lowering::side(Side& side, const Factor& factor, const std::vector<std::size_t>& groups,
                        const std::vector<Multiplied>& x) {
  const int columns = padded(factor.out);
  const bool same = factor.places.size() == 1 && std::ranges::all_of(x, [&](const Multiplied& one) {
                      return std::ranges::equal(one.runs, x.front().runs,
                                                [](const auto& a, const auto& b) { return a == b; });
                    });
  const std::size_t copies = same ? 1 : groups.size();
  std::vector<std::vector<Weights>> weights;
  std::vector<float> bias(copies * static_cast<std::size_t>(columns));
  for (std::size_t i = 0; i < copies; ++i) {
    const network::WeightsPlace& from = factor.place_of(groups[i]);
    weights.push_back({{tensor(factor.w) + from.w, factor.out, factor.stride, x[i].runs, 0}});
    if (!factor.b.empty())
      std::copy_n(tensor(factor.b) + from.b, factor.out,
                  bias.begin() + static_cast<std::ptrdiff_t>(i) * columns);
  }
  side.a_group = groups.size() > 1 ? x[1].at.column - x[0].at.column : 0;
  side.depth = x.front().depth;
  side.w_group = same ? 0 : static_cast<std::size_t>(side.depth) * static_cast<std::size_t>(columns);
  side.bias_group = same ? 0 : columns;
  const std::size_t w = packing_.matrices(weights, side.depth, columns);
  return {x.front().at, w, packing_.rows(bias.data(), bias.size(), bias.size(), 1)};
}

void Lowering::emit_product(std::size_t number, std::vector<ProductPlan>& plans) {
  const Node& node = fused_.nodes[number];
  const auto& product = std::get<FusedProduct>(node.does);
  const std::vector<std::size_t> groups = live_groups(node);
  const int columns = padded(product.main.out);
  std::vector<Multiplied> main, gate;
  std::vector<Place> main_at, gate_at, out, also;
  for (const std::size_t g : groups) {
    main_at.push_back(main.emplace_back(multiplied(product.main, g)).at);
    if (product.gate) gate_at.push_back(gate.emplace_back(multiplied(*product.gate, g)).at);
    out.push_back(out_of(node, g, false).at);
    also.push_back(out_of(node, g, true).at);
  }
  const GroupsPlace times = groups_place(live_of(node, product.times), Format::any, columns),
                    plus = groups_place(live_of(node, product.plus), Format::floats, columns);
  const std::optional<std::size_t> slope =
      floats_of(product.main.activation.slope, static_cast<std::size_t>(columns));
  // Groups that read as many columns, too: what is beyond them are places of no buffer that do not go on.
  std::vector<Place> deep, gate_deep;
  for (const Multiplied& one : main) deep.push_back({one.depth, 0});
  for (const Multiplied& one : gate) gate_deep.push_back({one.depth, 0});
  std::vector<std::vector<Place>> lists{main_at, out, also, deep};
  if (product.gate) lists.insert(lists.end(), {gate_at, gate_deep});
  each_run(lists, groups.size(), groups.size(), [&](std::size_t first, std::size_t count) {
    const auto part = [&](const auto& all) {
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first);
      return std::remove_cvref_t<decltype(all)>(begin, begin + static_cast<std::ptrdiff_t>(count));
    };
    ProductPlan plan;
    plan.name = product.main.name;
    Product& one = plan.product;
    plan.main = side(one.main, product.main, part(groups), part(main));
    if (product.gate) plan.gate = side(one.gate, *product.gate, part(groups), part(gate));
    one.gated = product.gate.has_value();
    one.epilogue = product.main.epilogue();
    one.function = product.main.activation.function;
    one.alpha = product.main.activation.alpha;
    one.gamma = product.gate ? product.gate->gamma.value() : product.main.gamma.value_or(1.0F);
    one.groups = static_cast<int>(count);
    one.columns = columns;
    one.used = whole(product.main.out);
    plan.slope = slope;
    plan.times = from_group(times, first);
    plan.plus = from_group(plus, first);
    plan.out = run_of(out, first, count);
    plan.also = run_of(also, first, count);
    plans.push_back(std::move(plan));
  });
}

// Products that read the same columns and end alike, side by side as one.
void Lowering::emit_joined(const std::vector<std::size_t>& nodes, std::vector<ProductPlan>& plans) {
  ProductPlan plan;
  Product& one = plan.product;
  const auto& first = std::get<FusedProduct>(fused_.nodes[nodes.front()].does);
  const Multiplied x = multiplied(first.main, 0);
  std::vector<Weights> weights;
  std::vector<int> used;  // of each kWhole columns
  std::vector<float> bias;
  for (const std::size_t i : nodes) {
    const Factor& factor = std::get<FusedProduct>(fused_.nodes[i].does).main;
    plan.name += (plan.name.empty() ? "" : " | ") + factor.name;
    const network::WeightsPlace& from = factor.place_of(0);
    weights.push_back({tensor(factor.w) + from.w, factor.out, factor.stride, x.runs, one.columns});
    bias.resize(static_cast<std::size_t>(one.columns + padded(factor.out)));
    if (!factor.b.empty()) std::copy_n(tensor(factor.b) + from.b, factor.out, bias.begin() + one.columns);
    one.columns += padded(factor.out);
    for (int left = whole(factor.out); left > 0; left -= kWhole) used.push_back(std::min(left, kWhole));
  }
  one.epilogue = first.main.epilogue();
  one.function = first.main.activation.function;
  one.alpha = first.main.activation.alpha;
  one.gamma = first.main.gamma.value_or(1.0F);
  one.groups = 1;
  one.used = one.columns;
  one.main.depth = x.depth;
  const std::size_t w = packing_.matrices({weights}, x.depth, one.columns);
  plan.main = {x.at, w, packing_.rows(bias.data(), bias.size(), bias.size(), 1)};
  plan.used_by_whole = packing_.rows(used.data(), used.size(), used.size(), 1);
  plan.out = out_of(fused_.nodes[nodes.front()], 0, false);
  plan.also = out_of(fused_.nodes[nodes.front()], 0, true);
  plans.push_back(std::move(plan));
}

}  // namespace pepnet::cuda
