// Where values lie, and in which precision. What a product reads is one piece of memory: what is computed is
// written there side by side, and columns of inputs are copied there.
#include <algorithm>
#include <tuple>

#include "cuda/lower.h"

namespace pepnet::cuda {

using network::FusedProduct;
using network::Node;
using network::Piece;
using network::Slice;

void Lowering::find_depths() {
  depth_.assign(fused_.nodes.size(), 0);
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    node_of_.emplace(fused_.nodes[i].value, i);
    for (const network::Read& read : fused_.reads(fused_.nodes[i])) {
      for (const network::Columns columns : read.columns)
        for (const Slice& slice : *columns)
          if (slice.value >= network::kInputs)
            depth_[i] = std::max(depth_[i], depth_[node_of_.at(slice.value)] + 1);
    }
  }
}

void Lowering::read(const Groups& groups, Format format) {
  for (const network::Columns columns : groups) {
    for (const Slice& slice : *columns) {
      const bool input = slice.value < network::kInputs;
      if (input && format == Format::values) continue;  // which are copied to where products read them
      Home& home = homes_[{slice.value, slice.group}];
      if (format == Format::values) home.reads_values = true;
      // Nobody rounds an input.
      if (format == Format::floats || (format == Format::any && input))
        (rounded() ? home.reads_floats : home.reads_values) = true;
    }
  }
}

void Lowering::find_formats() {
  for (const Node& node : fused_.nodes) {
    const auto* const product = std::get_if<FusedProduct>(&node.does);
    if (product == nullptr) {
      for (const network::Read& read : fused_.reads(node)) this->read(read.columns, Format::floats);
      continue;
    }
    const Format factor = is_score(node) ? Format::floats : Format::values;
    read(live_of(node, product->main.x), factor);
    if (product->gate) read(live_of(node, product->gate->x), factor);
    read(live_of(node, product->times), Format::any);
    read(live_of(node, product->plus), Format::floats);
  }
  for (const network::Head& head : network_.heads()) {
    for (std::size_t g = 0; g < network_.shape(head.of).groups; ++g)
      read({fused_.columns->of(head.of, g)}, Format::floats);
  }
  for (const Node& node : fused_.nodes) {
    for (const std::size_t g : live_groups(node)) {
      Home& one = home(node, g);
      if (!one.reads_floats) one.reads_values = true;
    }
  }
}

Place Lowering::buffer(int columns, Format format) {
  const bool floats = format == Format::floats;
  program_.buffers_.push_back({columns, floats ? Precision::fp32 : program_.precision_});
  return {static_cast<int>(program_.buffers_.size()) - 1, 0};
}

void Lowering::arrange_factors() {
  for (const Node& node : fused_.nodes) {
    const auto* const product = std::get_if<FusedProduct>(&node.does);
    if (product == nullptr || is_score(node)) continue;
    for (const network::Columns columns : live_of(node, product->main.x)) arrange(columns);
    if (!product->gate) continue;
    for (const network::Columns columns : live_of(node, product->gate->x)) arrange(columns);
  }
}

// What is computed comes first, each value padded; then columns of inputs side by side.
void Lowering::arrange(network::Columns columns) {
  if (fused_.whole_piece(columns)) return;  // it lies where it is written
  const auto [it, fresh] = arrangements_.try_emplace(columns);
  if (!fresh) return;
  Arrangement& found = it->second;
  found.at = buffer(0, Format::values);
  std::size_t source = 0;
  for (std::size_t i = 0; i < columns->size();) {
    const Slice& slice = (*columns)[i];
    std::size_t taken = 1;
    if (slice.value >= network::kInputs) {
      taken = place_whole(*columns, i, found);
      if (taken == 0) {
        taken = 1;
        found.copied.emplace_back(slice, found.depth);
        homes_[{slice.value, slice.group}].reads_values = true;
      }
      for (std::size_t each = 0; each < taken; ++each) {
        const std::size_t width = (*columns)[i + each].width();
        found.runs.push_back({source, width, found.depth});
        found.depth += padded(width);
        source += width;
      }
    } else {
      source += slice.width();
    }
    i += taken;
  }
  source = 0;
  std::size_t end = static_cast<std::size_t>(found.depth);
  for (const Slice& slice : *columns) {
    if (slice.value < network::kInputs) {
      found.runs.push_back({source, slice.width(), whole(end)});
      end += slice.width();
    }
    source += slice.width();
  }
  found.depth = padded(end);
  program_.buffers_[static_cast<std::size_t>(found.at.buffer)].stride = found.depth;
}

// The value of the slice is written right here if all of it is read here, group by group, and nowhere else
// before. Returns how many slices that are, 0 if it cannot be.
std::size_t Lowering::place_whole(const Slices& slices, std::size_t first, Arrangement& found) {
  const network::ValueId value = slices[first].value;
  const network::Shape& shape = fused_.shapes[value];
  if (first + shape.groups > slices.size()) return 0;
  for (std::size_t g = 0; g < shape.groups; ++g) {
    const Slice all{value, g, 0, shape.width};
    if (slices[first + g] != all || homes_[{value, g}].values) return 0;
  }
  for (std::size_t g = 0; g < shape.groups; ++g)
    homes_[{value, g}].values =
        Place{found.at.buffer, found.depth + static_cast<int>(g) * padded(shape.width)};
  return shape.groups;
}

// Products that read the same columns and end alike are one, if nothing else says where their values lie.
void Lowering::join_products() {
  using Alike = std::tuple<network::Columns, std::optional<float>, network::Function, float, bool, bool>;
  std::map<Alike, std::vector<std::size_t>> alike;
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    const Node& node = fused_.nodes[i];
    const auto* const product = std::get_if<FusedProduct>(&node.does);
    if (product == nullptr || is_score(node) || node.shape.groups > 1 || !node.live[0] || product->gate ||
        !product->times.empty() || !product->plus.empty() || !product->main.activation.slope.empty())
      continue;
    const Home& one = home(node, 0);
    if (one.values || one.floats) continue;
    const network::Factor& main = product->main;
    alike[{main.x.front(), main.gamma, main.activation.function, main.activation.alpha, one.reads_values,
           one.reads_floats}]
        .push_back(i);
  }
  for (auto& [key, nodes] : alike) {
    if (nodes.size() < 2) continue;
    int columns = 0;
    for (const std::size_t i : nodes) columns += padded(fused_.nodes[i].shape.width);
    for (const Format format : {Format::values, Format::floats}) {
      if (!(format == Format::values ? std::get<4>(key) : std::get<5>(key))) continue;
      Place next = buffer(columns, format);
      for (const std::size_t i : nodes) place_groups(fused_.nodes[i].value, format, next);
    }
    joined_.push_back(std::move(nodes));
  }
}

// The groups of a value that lie nowhere yet, side by side from `next` on.
void Lowering::place_groups(network::ValueId value, Format format, Place& next) {
  const Node& node = fused_.nodes[node_of_.at(value)];
  for (const std::size_t g : live_groups(node)) {
    std::optional<Place>& at = home(node, g).at(format);
    if (at) continue;
    at = next;
    next.column += padded(node.shape.width);
  }
}

// Experts' outputs lie side by side, where nothing else says where they lie.
void Lowering::stack_for_mixes() {
  const Format format = format_of(Format::floats);
  for (const Node& node : fused_.nodes) {
    const auto* const does = std::get_if<const network::Does*>(&node.does);
    const auto* const mix = does == nullptr ? nullptr : std::get_if<network::Mix>(*does);
    if (mix == nullptr) continue;
    std::vector<network::ValueId> values;
    int columns = 0;
    for (std::size_t e = 0; e < fused_.shapes[mix->h].groups; ++e) {
      const auto piece = fused_.whole_piece(fused_.columns->of(mix->h, e));
      if (!piece || std::ranges::find(values, piece->first) != values.end()) continue;
      const Node& made = fused_.nodes[node_of_.at(piece->first)];
      const auto free = [&](std::size_t g) { return !home(made, g).at(format); };
      if (!std::ranges::all_of(live_groups(made), free)) continue;
      values.push_back(piece->first);
      columns += static_cast<int>(live_groups(made).size()) * padded(made.shape.width);
    }
    if (values.empty()) continue;
    Place next = buffer(columns, format);
    for (const network::ValueId value : values) place_groups(value, format, next);
  }
}

void Lowering::place_rest() {
  for (const Node& node : fused_.nodes) {
    for (const Format format : {Format::values, Format::floats}) {
      std::vector<std::size_t> free;
      for (const std::size_t g : live_groups(node)) {
        Home& one = home(node, g);
        if ((format == Format::values ? one.reads_values : one.reads_floats) && !one.at(format))
          free.push_back(g);
      }
      if (free.empty() || is_score(node)) continue;
      Place next = buffer(static_cast<int>(free.size()) * padded(node.shape.width), format);
      for (const std::size_t g : free) {
        home(node, g).at(format) = next;
        next.column += padded(node.shape.width);
      }
    }
  }
  for (network::ValueId input = 0; input < network::kInputs; ++input) {
    const auto found = homes_.find({input, 0});
    if (found == homes_.end()) continue;
    found->second.at(format_of(Format::floats)) =
        buffer(padded(network_.shape(input).width), format_of(Format::floats));
  }
}

}  // namespace pepnet::cuda
