// Where values lie. What a product reads is one piece of memory, so that values which are read side by side
// are written side by side; columns of inputs are copied there.
#include <algorithm>

#include "dense/lower.h"

namespace pepnet::engine {

using network::FusedProduct;
using network::Slice;

void Lowering::find_homes() {
  for (std::size_t i = 0; i < fused_.nodes.size(); ++i) {
    const Node& node = fused_.nodes[i];
    for (const network::Read& read : fused_.reads(node)) {
      const bool factor = read.as == network::Operand::factor && !fused_.scores.contains({node.value, 0});
      for (const Columns columns : read.columns) {
        if (columns->empty()) continue;
        if (factor) {
          Arrangement& found = arrangement(columns, reads_bf16(i));
          found.read_by_main = found.read_by_main || !in_float32_[i];
        } else if (!read.across || read.as == network::Operand::experts) {
          plan_gather(columns);
        }
      }
      if (read.across && read.as != network::Operand::experts) plan_gather(side_by_side(read.columns));
    }
    const auto* const product = std::get_if<FusedProduct>(&node.does);
    for (std::size_t g = 0; g < node.shape.groups; ++g) {
      if (!node.live[g]) continue;
      if (product == nullptr) {  // what is no product makes float32
        Home& home = homes_[{node.value, g}];
        home.reads_floats = home.reads_floats || home.reads_values;
      } else if (product->gate) {  // the sums that rows may start from are those of the main factor
        arrangement(product->gate->x_of(g), reads_bf16(i)).read_whole = true;
      }
    }
    if (product != nullptr) continue;
    const auto* const mix = std::get_if<network::Mix>(std::get<const network::Does*>(node.does));
    if (mix != nullptr) stack_for_mix(*mix);
  }
  for (const network::Head& head : network_.heads()) {
    for (std::size_t g = 0; g < network_.shape(head.of).groups; ++g)
      for (const auto& [columns, at] : head_columns(head, g, 0)) plan_gather(columns);
  }
  for (auto& [piece, home] : homes_) {
    const std::size_t width = padded(fused_.shapes[piece.first].width);
    if (home.reads_values && home.values.none()) home.values = {values(width), 0};
    if (home.reads_floats && home.floats.none()) home.floats = {floats(width), 0};
  }
}

// All groups of a value as the columns of one.
network::Columns Lowering::side_by_side(const std::vector<Columns>& groups) {
  network::Slices all;
  for (const Columns columns : groups) all.insert(all.end(), columns->begin(), columns->end());
  return fused_.columns->one(std::move(all));
}

// Columns that lie apart are copied for whoever reads them as the columns of one row.
void Lowering::plan_gather(Columns columns) {
  if (columns->size() == 1) return;
  const auto [it, fresh] = gathers_.try_emplace(columns);
  if (fresh) it->second.at = {floats(round_up(network::width_of(*columns), kPanel) + kPanel), 0};
}

// Experts' outputs lie side by side, at equal distances, where nothing else says where they lie.
void Lowering::stack_for_mix(const network::Mix& mix) {
  const std::size_t groups = fused_.shapes[mix.h].groups, width = padded(fused_.shapes[mix.h].width);
  std::vector<Home*> free;
  for (std::size_t g = 0; g < groups; ++g) {
    const auto piece = fused_.whole_piece(fused_.columns->of(mix.h, g));
    if (!piece) continue;
    Home& home = homes_[*piece];
    if (home.floats.none() && std::ranges::find(free, &home) == free.end()) free.push_back(&home);
  }
  if (free.empty()) return;
  const BufferId buffer = floats(free.size() * width);
  for (std::size_t i = 0; i < free.size(); ++i) free[i]->floats = {buffer, i * width * sizeof(float)};
}

// Where a product finds columns; they are given a place when they are first asked for.
Arrangement& Lowering::arrangement(Columns columns, bool as_bf16) {
  const auto [it, fresh] = arrangements_.try_emplace({columns, as_bf16});
  Arrangement& found = it->second;
  if (!fresh) return found;
  found.width = network::width_of(*columns);
  if (fused_.whole_piece(columns)) return found;  // it lies where it is written

  // What is computed comes first, each value padded; then what is copied from the inputs.
  const std::size_t step = padding(as_bf16);
  std::vector<std::size_t> sources;
  std::vector<std::pair<Piece, std::size_t>> whole;
  network::Slices inputs;
  std::vector<std::size_t> input_sources;
  std::size_t source = 0, end = 0, width = 0;
  for (const Slice& slice : *columns) {
    if (slice.value < network::kInputs) {
      inputs.push_back(slice);
      input_sources.push_back(source);
    } else {
      found.runs.push_back({source, slice.width(), end});
      const bool all = slice.begin == 0 && slice.end == fused_.shapes[slice.value].width;
      Home& home = homes_[{slice.value, slice.group}];
      const Ref& known = as_bf16 ? home.values : home.floats;
      const Piece piece{slice.value, slice.group};
      const bool taken = std::ranges::any_of(whole, [&](const auto& one) { return one.first == piece; });
      // Who writes both formats pads both as the wider one asks.
      if (all && known.none() && !taken && (as_bf16 || !home.reads_values)) {
        whole.push_back({piece, end});
      } else {
        found.copied.push_back({slice, end});
        home.reads_floats = true;
      }
      width = end + slice.width();
      end += round_up(slice.width(), step);
    }
    source += slice.width();
  }
  found.rest_at = end;
  if (!inputs.empty()) {
    place_inputs(found, inputs, std::move(input_sources),
                 whole.empty() && found.copied.empty() && !quantized());
    std::size_t rest = 0;
    for (const ColumnRun& run : found.rest) rest += run.count;
    width = rest > 0 ? found.rest_at + rest : found.rest_at;
    end = found.rest_at + round_up(rest, step);
  }
  found.width = width;
  found.at = {build_.buffer(end * value_bytes(as_bf16)), 0};
  for (const auto& [piece, k] : whole) {
    Home& home = homes_[piece];
    (as_bf16 ? home.values : home.floats) = {found.at.buffer, k * value_bytes(as_bf16)};
  }
  return found;
}

// Columns of inputs: those that a request may share first, if they are to be `split`.
void Lowering::place_inputs(Arrangement& found, const network::Slices& slices,
                            std::vector<std::size_t> sources, bool split) {
  struct Run {
    ColumnRun columns;
    std::size_t source;
  };
  std::vector<Run> shared, rest;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const Slice& slice = slices[i];
    std::size_t next = slice.begin;
    const auto take = [&](std::vector<Run>& to, std::size_t end) {
      if (end > next) to.push_back({{slice.value, next, end - next}, sources[i] + (next - slice.begin)});
      next = std::max(next, end);
    };
    if (split) {
      for (const auto& [begin, end] : options_.shared[slice.value]) {
        take(rest, std::min(begin, slice.end));
        if (begin < slice.end) take(shared, std::min(end, slice.end));
      }
    }
    take(rest, slice.end);
  }
  std::size_t k = found.rest_at;
  const auto place = [&](const std::vector<Run>& runs, std::vector<ColumnRun>& to) {
    for (const Run& run : runs) {
      to.push_back(run.columns);
      found.runs.push_back({run.source, run.columns.count, k});
      k += run.columns.count;
    }
  };
  place(shared, found.shared);
  k = found.rest_at = found.rest_at + padded(k - found.rest_at);
  place(rest, found.rest);
}

}  // namespace pepnet::engine
