// How steps read what lies elsewhere, and the packed weights beside it.
#include <stdexcept>

#include "dense/lower.h"

namespace pepnet::engine {

using network::Slice;

const float* Lowering::tensor(const network::TensorName& name) const { return tensors_.at(name).data; }

// Where the columns lie in float32, one after the other.
Ref Lowering::float_columns(Columns columns) {
  const Slice& first = columns->front();
  if (columns->size() == 1) {
    if (first.value < network::kInputs) return input_ref(first.value, first.begin);
    Ref at = homes_.at({first.value, first.group}).floats;
    at.offset += first.begin * sizeof(float);
    return at;
  }
  Gather& gather = gathers_.at(columns);
  if (!gather.made) {
    // A copy writes whole registers, beyond its columns too: the next one comes after it, in one chain.
    const bool chain = build_.begin_chain();
    Ref to = gather.at;
    for (const Slice& slice : *columns) {
      copy(slice, to, slice.width(), false);
      to.offset += slice.width() * sizeof(float);
    }
    if (chain) build_.end_chain();
    gather.made = true;
  }
  return gather.at;
}

void Lowering::copy(const Slice& slice, Ref to, std::size_t padded, bool as_bf16) {
  const network::Slices one{slice};
  build_.add(CopyStep{as_bf16 ? &main_ : &small_, float_columns(&one), to, slice.width(), padded});
}

// What a product needs of one factor. may_share: its sums over the columns that a request shares may be
// given.
Lowering::Factored Lowering::factored(std::size_t node, const network::Factor& factor, std::size_t group,
                                      bool feeds, bool may_share) {
  const Columns columns = factor.x_of(group);
  Arrangement& from = arrangements_.at({columns, reads_bf16(node)});
  const Ops& ops = ops_of(node);
  const bool bytes = quantized() && !in_float32_[node];
  Ref a = from.at;
  if (const auto piece = fused_.whole_piece(columns)) {
    const Home& home = homes_.at(*piece);
    a = reads_bf16(node) ? home.values : home.floats;
  }
  if (!from.copied.empty() && !from.copies_made) {
    for (const auto& [slice, k] : from.copied) {
      const std::size_t bytes_each = value_bytes(reads_bf16(node));
      copy(slice, {from.at.buffer, k * bytes_each}, round_up(slice.width(), padding(reads_bf16(node))),
           reads_bf16(node));
    }
    from.copies_made = true;
  }
  if (bytes) {
    if (from.bytes.none()) quantize(from, a);
    a = from.bytes;
  }

  const network::WeightsPlace& place = factor.place_of(group);
  MatrixSpec spec;
  spec.name = factor.w;
  spec.w = tensor(factor.w) + place.w;
  spec.stride = factor.stride;
  spec.in = from.width;
  spec.out = factor.out;
  spec.runs = from.runs;
  spec.out_multiple = feeds ? multiple() : kPanel;
  std::optional<std::size_t> prefix;
  if (may_share && !from.shared.empty() && !bytes) {
    if (!from.shared_columns) {
      from.shared_columns = build_.plan.shared_columns.size();
      build_.plan.shared_columns.push_back({&ops, from.shared, from.rest_at, {}, false});
    }
    MatrixSpec part = spec;
    part.in = from.rest_at;
    std::erase_if(part.runs, [&](const RowRun& run) { return run.k >= from.rest_at; });
    const PackedMatrix* const w = packer_.add(std::move(part), ops.precision);
    Plan& plan = build_.plan;
    prefix = plan.prefixes.size();
    plan.prefixes.push_back({*from.shared_columns, w, from.rest_at, plan.prefix_panels});
    plan.prefix_panels += w->panels;
  }
  if (!factor.b.empty()) spec.bias = tensor(factor.b) + place.b;
  return {packer_.add(std::move(spec), ops.precision), a, prefix};
}

// The float32 columns of an arrangement, `at` where they are, as bytes.
void Lowering::quantize(Arrangement& from, Ref at) {
  const std::size_t columns = round_up(from.width, k_multiple(main_.precision));
  from.bytes = {build_.buffer(columns, true), 0};
  build_.add(QuantizeStep{&main_, at, from.bytes, from.width, columns});
}

}  // namespace pepnet::engine
