// The launches of a program, by depth in the network: first what is copied, then products, those that can in
// one launch, then everything that is none.
#include <algorithm>
#include <set>
#include <stdexcept>

#include "cuda/lower.h"
#include "cuda/operations/all.h"

namespace pepnet::cuda {

using network::Factor;
using network::FusedProduct;
using network::Node;
using network::Slice;

namespace {

// The shares of a mix's experts, of all tasks of a launch, in a block's memory.
constexpr std::size_t kMostShares = 8192;

Epilogue epilogue_of(const Factor& factor) {
  if (factor.gamma) return Epilogue::gate;
  switch (factor.activation.function) {
    case network::Function::identity:
      return Epilogue::linear;
    case network::Function::relu:
      return Epilogue::relu;
    default:
      return Epilogue::function;
  }
}

bool operator==(const RowRun& a, const RowRun& b) {
  return a.source == b.source && a.count == b.count && a.k == b.k;
}

// Whether places go on as they began: at the same distance.
struct Progression {
  Place first;
  int step = 0;
  std::size_t count = 0;

  bool take(Place next) {
    if (count == 0) {
      first = next;
    } else if (next.buffer != first.buffer) {
      return false;
    } else if (count == 1) {
      step = next.column - first.column;
      if (step < 0) return false;
    } else if (next.column != first.column + static_cast<int>(count) * step) {
      return false;
    }
    ++count;
    return true;
  }
};

// Cuts [0, count) into runs for which every list of places is a progression. use(first, count).
template <class Use>
void each_run(const std::vector<std::vector<Place>>& lists, std::size_t count, std::size_t most,
              const Use& use) {
  for (std::size_t first = 0; first < count;) {
    std::vector<Progression> found(lists.size());
    std::size_t next = first;
    for (; next < count && next - first < most; ++next) {
      std::vector<Progression> longer = found;
      bool fits = true;
      for (std::size_t i = 0; i < lists.size(); ++i) fits = fits && longer[i].take(lists[i][next]);
      if (!fits) break;
      found = std::move(longer);
    }
    use(first, next - first);
    first = next;
  }
}

int step_of(const std::vector<Place>& places, std::size_t first, std::size_t count) {
  return count > 1 ? places[first + 1].column - places[first].column : 0;
}

GroupsPlace run_of(const std::vector<Place>& places, std::size_t first, std::size_t count) {
  if (places.empty()) return {};
  return {places[first], step_of(places, first, count)};
}

// That of the groups from `first` on.
GroupsPlace from_group(GroupsPlace place, std::size_t first) {
  place.at.column += static_cast<int>(first) * place.group;
  return place;
}

}  // namespace

Lowering::Lowering(Program& program, const network::Network& network, const Tensors& tensors)
    : program_(program),
      network_(network),
      tensors_(tensors),
      fused_(network::fuse(network)),
      packing_(program.weights_, program.precision_) {}

void Lowering::lower() {
  program_.scores_ = network_.scores();
  find_depths();
  find_formats();
  arrange_factors();
  join_products();
  stack_for_mixes();
  place_rest();
  copy_inputs();
  program_.first_ = program_.steps_.size();
  std::size_t levels = 0;
  for (const std::size_t depth : depth_) levels = std::max(levels, depth + 1);
  for (std::size_t depth = 0; depth < levels; ++depth) emit_level(depth);
  std::vector<StepPlan> last;
  emit_scores(last);
  emit_heads(last);
  program_.last_ = last.size();
  push(std::move(last));
}

void Lowering::copy_inputs() {
  const auto copy = [&](const Slice& slice, std::size_t width, Place to) {
    program_.widths_[slice.value] = network_.shape(slice.value).width;
    copies_.push_back(
        {static_cast<Source>(slice.value), whole(slice.begin), whole(slice.width()), whole(width), to});
  };
  for (const auto& [columns, found] : arrangements_) {
    // The first of two neighbours is not padded: the second begins there, and has the zeros of both.
    std::vector<Slice> inputs;
    for (const Slice& slice : *columns)
      if (slice.value < network::kInputs) inputs.push_back(slice);
    if (inputs.empty()) continue;
    std::size_t k = static_cast<std::size_t>(found.runs[found.runs.size() - inputs.size()].k);
    for (const Slice& slice : inputs) {
      const bool last = &slice == &inputs.back();
      const std::size_t width = last ? static_cast<std::size_t>(found.depth) - k : slice.width();
      copy(slice, width, {found.at.buffer, whole(k)});
      k += slice.width();
    }
  }
  for (network::ValueId input = 0; input < network::kInputs; ++input) {
    const auto found = homes_.find({input, 0});
    if (found == homes_.end()) continue;
    const std::size_t width = network_.shape(input).width;
    copy({input, 0, 0, width}, up(width, kWhole), *found->second.at(format_of(Format::floats)));
  }
  flush_copies();
}

void Lowering::flush_copies() {
  for (std::size_t first = 0; first < copies_.size(); first += kMostCopies) {
    const auto begin = copies_.begin() + static_cast<std::ptrdiff_t>(first);
    const std::size_t count = std::min<std::size_t>(kMostCopies, copies_.size() - first);
    program_.steps_.push_back(CopyPlan{{begin, begin + static_cast<std::ptrdiff_t>(count)}});
  }
  copies_.clear();
}

void Lowering::push(std::vector<StepPlan> steps) {
  flush_copies();
  for (StepPlan& step : steps) program_.steps_.push_back(std::move(step));
}

void Lowering::emit_level(std::size_t depth) {
  std::vector<std::size_t> products;
  std::vector<StepPlan> others;
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    const Node& node = fused_.nodes[i];
    if (depth_[i] != depth || is_score(node) || live_groups(node).empty()) continue;
    if (std::holds_alternative<FusedProduct>(node.does)) {
      products.push_back(i);
      continue;
    }
    const network::Does& does = *std::get<const network::Does*>(node.does);
    if (const auto* const mix = std::get_if<network::Mix>(&does)) {
      emit_mix(node, *mix, others);
    } else {
      emit_rows(node, others);
    }
  }
  emit_products(products, false);
  emit_products(products, true);
  push(std::move(others));
}

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

std::vector<std::size_t> Lowering::live_groups(const Node& node) const {
  std::vector<std::size_t> groups;
  for (std::size_t g = 0; g < node.shape.groups; ++g)
    if (node.live[g]) groups.push_back(g);
  return groups;
}

// Of an operand that each group of the node has its own of, those that somebody reads.
Lowering::Groups Lowering::live_of(const Node& node, const Groups& groups) const {
  if (groups.size() <= 1) return groups;
  Groups found;
  for (const std::size_t g : live_groups(node)) found.push_back(groups[g]);
  return found;
}

// Where a slice lies: of what is read as it comes, as products read it if it is there at all.
Place Lowering::place(const Slice& slice, Format format) {
  Home& found = homes_.at({slice.value, slice.group});
  format = format_of(format);
  if (format == Format::any) format = found.values ? Format::values : Format::floats;
  Place at = found.at(format).value();
  at.column += whole(slice.begin);
  return at;
}

// Where groups lie of which so many columns are read, four at once where they are more than one warp's work.
std::optional<GroupsPlace> Lowering::direct_place(const Groups& groups, Format format, int columns) {
  Progression found;
  for (const network::Columns one : groups) {
    if (one->size() != 1) return std::nullopt;
    const Place at = place(one->front(), format);
    const int stride = program_.buffers_[static_cast<std::size_t>(at.buffer)].stride;
    if (at.column % 4 != 0 || at.column + columns > stride || !found.take(at)) return std::nullopt;
  }
  return GroupsPlace{found.first, found.step};
}

// The same, or where they are copied to.
GroupsPlace Lowering::groups_place(const Groups& groups, Format format, int columns) {
  if (groups.empty()) return {};
  if (const auto direct = direct_place(groups, format, columns)) return *direct;
  const int group = padded(network::width_of(*groups.front()));
  return {gather(groups, format, group), groups.size() > 1 ? group : 0};
}

// In float32, one group after the other.
Place Lowering::gather(const Groups& groups, Format format, int group) {
  const auto known = gathers_.find({groups, format});
  if (known != gathers_.end()) return known->second;
  const Place at = buffer(static_cast<int>(groups.size()) * group, Format::floats);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    int column = 0;
    for (const Slice& slice : *groups[g]) {
      const bool last = &slice == &groups[g]->back();
      const int width = whole(slice.width());
      copies_.push_back({place(slice, format),
                         0,
                         width,
                         last ? group - column : width,
                         {at.buffer, static_cast<int>(g) * group + column}});
      column += width;
    }
  }
  return gathers_[{groups, format}] = at;
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

// Where a group's result goes; `also`: in the second format, if it has two.
GroupsPlace Lowering::out_of(const Node& node, std::size_t group, bool also) {
  const Home& one = homes_.at({node.value, group});
  const bool both = one.values && one.floats;
  if (also) return {both ? *one.floats : Place{}, 0};
  return {one.values ? *one.values : one.floats.value(), 0};
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

std::optional<std::size_t> Lowering::floats_of(const network::TensorName& name, std::size_t columns) {
  if (name.empty()) return std::nullopt;
  std::size_t count = 1;
  for (const std::size_t n : tensors_.at(name).shape) count *= n;
  return packing_.rows(tensor(name), count, std::max(columns, count), 1);
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
    one.epilogue = epilogue_of(product.main);
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
  one.epilogue = epilogue_of(first.main);
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

void Lowering::emit_mix(const Node& node, const network::Mix& mix, std::vector<StepPlan>& steps) {
  const std::size_t experts = fused_.shapes[mix.z].width;
  const int columns = padded(node.shape.width);
  if (experts > kMostShares)
    throw std::length_error("cuda: operation '" + node.name + "' (mix): expected at most " +
                            std::to_string(kMostShares) + " experts for one task, got " +
                            std::to_string(experts));
  const std::vector<std::size_t> tasks = live_groups(node);
  const GroupsPlace z =
      groups_place(live_of(node, fused_.operand(mix.z, node.shape.groups)), Format::floats, whole(experts));
  // The experts that are read, and where each is: a number of shares from the first.
  const auto expert = [&](std::size_t task, std::size_t e) {
    return fused_.columns->of(mix.h, mix.choices.empty() ? e : mix.choices[task][e]);
  };
  Groups read;
  std::set<network::Columns> known;
  for (const std::size_t task : tasks) {
    for (std::size_t e = 0; e < experts; ++e)
      if (known.insert(expert(task, e)).second) read.push_back(expert(task, e));
  }
  std::map<network::Columns, Place> places;
  Place base;
  bool there = true;
  for (const network::Columns one : read) {
    there = there && fused_.whole_piece(one).has_value();
    if (!there) break;
    const Place at = places[one] = place(one->front(), Format::floats);
    if (base.buffer < 0 || at.column < base.column) base.column = at.column;
    there = base.buffer < 0 || at.buffer == base.buffer;
    base.buffer = at.buffer;
  }
  there = there && std::ranges::all_of(places, [&](const auto& one) {
            return (one.second.column - base.column) % columns == 0;
          });
  if (!there) {
    base = gather(read, Format::floats, columns);
    for (std::size_t i = 0; i < read.size(); ++i)
      places[read[i]] = {base.buffer, base.column + static_cast<int>(i) * columns};
  }
  std::vector<Place> out, also;
  for (const std::size_t task : tasks) {
    out.push_back(out_of(node, task, false).at);
    also.push_back(out_of(node, task, true).at);
  }
  each_run({out, also}, tasks.size(), kMostShares / experts, [&](std::size_t first, std::size_t count) {
    // The kernel has shares side by side: others are mixed one by one.
    const bool close = step_of(out, first, count) == columns &&
                       (also[first].buffer < 0 || step_of(also, first, count) == columns);
    const std::size_t each = close ? count : 1;
    for (std::size_t at = first; at < first + count; at += each) {
      std::vector<int> choices;
      bool own = true;
      for (std::size_t t = at; t < at + each; ++t) {
        for (std::size_t e = 0; e < experts; ++e) {
          choices.push_back((places.at(expert(tasks[t], e)).column - base.column) / columns);
          own = own && choices.back() == static_cast<int>(e);
        }
      }
      MixPlan plan{from_group(z, at), base,           out[at], also[at],
                   std::nullopt,      whole(experts), columns, static_cast<int>(each)};
      if (!own) plan.choices = packing_.rows(choices.data(), choices.size(), choices.size(), 1);
      steps.emplace_back(std::move(plan));
    }
  });
}

void Lowering::emit_rows(const Node& node, std::vector<StepPlan>& steps) {
  const network::Does& does = *std::get<const network::Does*>(node.does);
  RowsPlan plan;
  plan.name = node.name;
  std::visit(
      [&](const auto& one) {
        using Does = std::remove_cvref_t<decltype(one)>;
        constexpr std::optional<int> kNumber = row_operation<Does>();
        if constexpr (kNumber) {
          using Operation = std::tuple_element_t<static_cast<std::size_t>(*kNumber), RowOperations>;
          const RowFacts facts = Operation::facts(one);
          plan.work.which = *kNumber;
          plan.work.number = facts.number;
          plan.work.value = facts.value;
          plan.w = floats_of(facts.w, 0);
          plan.b = floats_of(facts.b, 0);
        } else {
          throw std::length_error("cuda: operation '" + node.name + "' (" + network::name_of(does) +
                                  "): there is no kernel for it");
        }
      },
      does);
  const auto operands = network::operands_of(does);
  const std::vector<network::Read> reads = fused_.reads(node);
  for (std::size_t i = 0; i < reads.size(); ++i) {
    const Groups groups = reads[i].across ? reads[i].columns : live_of(node, reads[i].columns);
    const int width = whole(fused_.shapes[operands[i]].width);
    plan.reads.push_back(
        {groups_place(groups, Format::floats, width), static_cast<int>(groups.size()), width});
  }
  std::vector<Place> out, also;
  for (const std::size_t g : live_groups(node)) {
    out.push_back(out_of(node, g, false).at);
    also.push_back(out_of(node, g, true).at);
  }
  plan.work.out.width = whole(node.shape.width);
  plan.work.padded = padded(node.shape.width);
  each_run({out, also}, out.size(), out.size(), [&](std::size_t first, std::size_t count) {
    RowsPlan part = plan;
    for (std::size_t i = 0; i < reads.size(); ++i)
      if (!reads[i].across) part.reads[i].place = from_group(plan.reads[i].place, first);
    part.work.groups = static_cast<int>(count);
    part.out = run_of(out, first, count);
    part.also = run_of(also, first, count);
    steps.emplace_back(std::move(part));
  });
}

void Lowering::emit_scores(std::vector<StepPlan>& steps) {
  for (const Node& node : fused_.nodes) {
    if (!is_score(node)) continue;
    const Factor& factor = std::get<FusedProduct>(node.does).main;
    std::vector<Place> h, columns;
    for (std::size_t g = 0; g < node.shape.groups; ++g) {
      h.push_back(groups_place({factor.x_of(g)}, Format::floats, whole(factor.in)).at);
      columns.push_back({0, whole(fused_.scores.at({node.value, g}))});
    }
    each_run({h, columns}, h.size(), h.size(), [&](std::size_t first, std::size_t count) {
      const std::size_t each = step_of(columns, first, count) == 1 ? count : 1;
      for (std::size_t at = first; at < first + count; at += each) {
        std::vector<float> w(each * factor.in), b(each);
        for (std::size_t i = 0; i < each; ++i) {
          const network::WeightsPlace& from = factor.place_of(at + i);
          for (std::size_t k = 0; k < factor.in; ++k)
            w[i * factor.in + k] = tensor(factor.w)[from.w + k * factor.stride];
          if (!factor.b.empty()) b[i] = tensor(factor.b)[from.b];
        }
        steps.emplace_back(ScorePlan{h[at], step_of(h, at, each), whole(factor.in), static_cast<int>(each),
                                     packing_.rows(w.data(), w.size(), w.size(), 1),
                                     packing_.rows(b.data(), b.size(), b.size(), 1), columns[at].column});
      }
    });
  }
}

void Lowering::emit_heads(std::vector<StepPlan>& steps) {
  constexpr int kNumber = row_operation<network::Head>().value();
  int column = 0;
  for (const network::Head& head : network_.heads()) {
    const network::Shape& shape = network_.shape(head.of);
    const bool whole_group = head.kind == network::HeadKind::softmax;
    for (std::size_t g = 0; g < shape.groups; ++g) {
      const network::Columns columns = fused_.columns->of(head.of, g);
      // What another step has computed is left out; a softmax is one of all columns.
      Groups parts;
      if (whole_group) {
        parts.push_back(columns);
      } else {
        for (const Slice& slice : *columns) parts.push_back(fused_.columns->one({slice}));
      }
      for (const network::Columns part : parts) {
        const int width = whole(network::width_of(*part));
        const Slice& first = part->front();
        if (whole_group || !fused_.scores.contains({first.value, first.group})) {
          RowsPlan plan;
          plan.name = "head";
          plan.work.which = kNumber;
          plan.work.number = HeadRows::facts(head).number;
          plan.work.groups = 1;
          plan.work.out.width = plan.work.padded = width;
          plan.reads.push_back({groups_place({part}, Format::floats, width), 1, width});
          plan.score = column;
          steps.emplace_back(std::move(plan));
        }
        column += width;
      }
    }
  }
}

Program::Program(const network::Network& network, const Tensors& tensors, Precision precision)
    : precision_(precision) {
  Lowering(*this, network, tensors).lower();
}

}  // namespace pepnet::cuda
