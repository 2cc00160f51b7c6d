// The launches of a program, by depth in the network: first what is copied, then products, then everything
// that is none.
#include <algorithm>

#include "cuda/lower.h"
#include "cuda/progression.h"

namespace pepnet::cuda {

using network::FusedProduct;
using network::Node;
using network::Slice;

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

// Where a group's result goes; `also`: in the second format, if it has two.
GroupsPlace Lowering::out_of(const Node& node, std::size_t group, bool also) {
  const Home& one = homes_.at({node.value, group});
  const bool both = one.values && one.floats;
  if (also) return {both ? *one.floats : Place{}, 0};
  return {one.values ? *one.values : one.floats.value(), 0};
}

std::optional<std::size_t> Lowering::floats_of(const network::TensorName& name, std::size_t columns) {
  if (name.empty()) return std::nullopt;
  std::size_t count = 1;
  for (const std::size_t n : tensors_.at(name).shape) count *= n;
  return packing_.rows(tensor(name), count, std::max(columns, count), 1);
}

Program::Program(const network::Network& network, const Tensors& tensors, Precision precision)
    : precision_(precision) {
  Lowering(*this, network, tensors).lower();
}

}  // namespace pepnet::cuda
