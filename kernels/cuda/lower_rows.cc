// What is no product: mixes, operations on rows, scores and heads.
#include <algorithm>
#include <set>
#include <stdexcept>

#include "cuda/lower.h"
#include "cuda/operations/all.h"
#include "cuda/progression.h"

namespace pepnet::cuda {

using network::Factor;
using network::FusedProduct;
using network::Node;
using network::Slice;

namespace {

// The shares of a mix's experts, of all tasks of a launch, in a block's memory.
constexpr std::size_t kMostShares = 8192;

}  // namespace

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

}  // namespace pepnet::cuda
