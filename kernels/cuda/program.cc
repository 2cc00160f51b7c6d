// From steps to launches: addresses for one run, and the grid of each kernel.
#include "cuda/program.h"

#include <stdexcept>

#include "cuda/packing.h"

namespace pepnet::cuda {
namespace {

unsigned pieces(int size, int piece) { return static_cast<unsigned>((size + piece - 1) / piece); }

const float* floats_at(const Addresses& at, std::optional<std::size_t> offset) {
  return offset ? reinterpret_cast<const float*>(at.weights + *offset) : nullptr;
}

}  // namespace

std::size_t Program::buffer_at(int buffer, int rows) const {
  std::size_t at = 0;
  for (int i = 0; i < buffer; ++i) {
    const BufferSpec& spec = buffers_[static_cast<std::size_t>(i)];
    const std::size_t line = static_cast<std::size_t>(spec.stride) * bytes_of(spec.precision);
    at += up(line * static_cast<std::size_t>(rows), kAlign);
  }
  return at;
}

std::size_t Program::scratch_bytes(int rows) const {
  return buffer_at(static_cast<int>(buffers_.size()), rows);
}

// No columns where there is no place.
Columns Program::columns(const Addresses& at, Place place) const {
  if (place.buffer < 0) return {};
  const BufferSpec& spec = buffers_[static_cast<std::size_t>(place.buffer)];
  const std::size_t before = static_cast<std::size_t>(place.column) * bytes_of(spec.precision);
  return {at.scratch + buffer_at(place.buffer, at.rows) + before, spec.stride, spec.precision};
}

Beside Program::beside(const Addresses& at, const GroupsPlace& place) const {
  return {columns(at, place.at), place.group};
}

Product Program::product(const Addresses& at, const ProductPlan& plan) const {
  Product product = plan.product;
  const auto bind_side = [&](Side& side, const SidePlan& to) {
    side.a = columns(at, to.a);
    side.w = at.weights + to.w;
    side.bias = floats_at(at, to.bias);
  };
  bind_side(product.main, plan.main);
  if (product.gated) bind_side(product.gate, plan.gate);
  product.rows = at.rows;
  product.slope = floats_at(at, plan.slope);
  if (plan.used_by_whole)
    product.used_by_whole = reinterpret_cast<const int*>(at.weights + *plan.used_by_whole);
  product.times = beside(at, plan.times);
  product.plus = beside(at, plan.plus);
  product.out = beside(at, plan.out);
  product.also = beside(at, plan.also);
  return product;
}

Launch Program::bind(const Addresses& at, const ProductsPlan& plan) const {
  ProductsLaunch launch{};
  launch.precision = precision_;
  for (const ProductPlan& one : plan.products) launch.products.of[launch.products.count++] = product(at, one);
  return launch;
}

Launch Program::bind(const Addresses& at, const CopyPlan& plan) const {
  ColumnCopies all{};
  all.rows = at.rows;
  for (std::size_t i = 0; i < plan.copies.size(); ++i) {
    const CopyPlan::One& one = plan.copies[i];
    Columns from{};
    if (const auto* const place = std::get_if<Place>(&one.from)) {
      from = columns(at, *place);
    } else {
      const auto source = static_cast<std::size_t>(std::get<Source>(one.from));
      from = {const_cast<float*>(at.inputs[source]) + one.begin, whole(widths_[source]), Precision::fp32};
      all.rows = at.live;
    }
    const Columns to = columns(at, one.to);
    const bool fours = one.width % 4 == 0 && one.padded % 4 == 0 && in_fours(to) && in_fours(from);
    all.copies[i] = {from, one.width, one.padded, to, fours};
    all.first[i] = all.blocks;
    all.blocks += static_cast<int>(pieces(one.padded, kCopiedColumns));
    ++all.count;
  }
  return all;
}

Launch Program::bind(const Addresses& at, const MixPlan& plan) const {
  const int* const choices =
      plan.choices ? reinterpret_cast<const int*>(at.weights + *plan.choices) : nullptr;
  return Mix{columns(at, plan.z.at), plan.z.group, columns(at, plan.h), choices,    columns(at, plan.out),
             columns(at, plan.also), plan.experts, plan.columns,        plan.tasks, at.rows};
}

Launch Program::bind(const Addresses& at, const RowsPlan& plan) const {
  RowWork work = plan.work;
  for (std::size_t i = 0; i < plan.reads.size(); ++i) {
    const RowsPlan::Operand& one = plan.reads[i];
    work.reads[i] = {columns(at, one.place.at), one.place.group, one.groups, one.width};
  }
  work.out.at = columns(at, plan.out.at);
  work.out.group = plan.out.group;
  work.also.at = columns(at, plan.also.at);
  work.also.group = plan.also.group;
  work.w = floats_at(at, plan.w);
  work.b = floats_at(at, plan.b);
  work.rows = at.rows;
  if (plan.score) {
    work.out.at = {at.scores + *plan.score, whole(scores_), Precision::fp32};
    work.rows = at.live;
  }
  return work;
}

Launch Program::bind(const Addresses& at, const ScorePlan& plan) const {
  return Score{columns(at, plan.h),
               plan.h_group,
               plan.width,
               plan.tasks,
               at.live,
               floats_at(at, plan.w),
               floats_at(at, plan.b),
               at.scores + plan.column,
               whole(scores_)};
}

Launch Program::bind(const Addresses& at, const StepPlan& step) const {
  return std::visit([&](const auto& plan) { return bind(at, plan); }, step);
}

std::vector<Launch> Program::bind_steps(const Addresses& at, std::size_t begin, std::size_t end) const {
  std::vector<Launch> launches;
  for (std::size_t i = begin; i < end; ++i) launches.push_back(bind(at, steps_[i]));
  return launches;
}

std::vector<Launch> Program::bind(const Addresses& at, std::span<const TileChoice> tiles) const {
  std::vector<Launch> launches;
  std::size_t next = 0;
  for (const StepPlan& step : steps_) {
    launches.push_back(bind(at, step));
    if (auto* const products = std::get_if<ProductsLaunch>(&launches.back()))
      arrange(*products, tiles[next++].tile);
  }
  return launches;
}

std::vector<const ProductsPlan*> Program::product_launches() const {
  std::vector<const ProductsPlan*> launches;
  for (const StepPlan& step : steps_)
    if (const auto* const launch = std::get_if<ProductsPlan>(&step)) launches.push_back(launch);
  return launches;
}

std::optional<std::vector<Columns>> Program::targets(const Addresses& at, Source input, int begin,
                                                     int end) const {
  std::vector<Columns> targets;
  for (std::size_t i = 0; i < first_; ++i) {
    for (const CopyPlan::One& one : std::get<CopyPlan>(steps_[i]).copies) {
      const int last = one.begin + one.width;
      if (std::get<Source>(one.from) != input || last <= begin || end <= one.begin) continue;
      if (begin < one.begin || last < end) return std::nullopt;
      targets.push_back(columns(at, {one.to.buffer, one.to.column + begin - one.begin}));
    }
  }
  return targets;
}

std::vector<StepCost> Program::costs() const {
  std::vector<StepCost> costs;
  std::size_t number = 0;
  for (const ProductsPlan* const launch : product_launches()) {
    for (const ProductPlan& plan : launch->products) {
      StepCost cost{plan.name, number, 0, 0};
      const Product& product = plan.product;
      for (const Side* const side : {&product.main, &product.gate}) {
        const double weights = static_cast<double>(side->depth) * product.columns;
        cost.flops += 2 * weights * product.groups;
        cost.weight_bytes +=
            weights * (side->w_group > 0 ? product.groups : 1) * static_cast<double>(bytes_of(precision_));
      }
      costs.push_back(cost);
    }
    ++number;
  }
  return costs;
}

void arrange(ProductsLaunch& launch, Tile tile) {
  if (launch.gated() && !can_be_gated(tile))
    throw std::logic_error("cuda: gated products in a tile without room");
  const Shape shape = shape_of(launch.precision, tile);
  launch.tile = tile;
  launch.blocks = 0;
  for (int i = 0; i < launch.products.count; ++i) {
    const Product& p = launch.products.of[i];
    launch.products.first[i] = static_cast<int>(launch.blocks);
    launch.blocks +=
        pieces(p.rows, shape.rows) * pieces(p.columns, shape.columns) * static_cast<unsigned>(p.groups);
  }
}

Block block_of(const Launch& launch) {
  if (const auto* const copy = std::get_if<ColumnCopies>(&launch)) {
    return {{static_cast<unsigned>(copy->blocks), pieces(copy->rows, kCopiedRows), 1}, kRowThreads, 0};
  }
  if (const auto* const products = std::get_if<ProductsLaunch>(&launch)) {
    const Shape shape = shape_of(products->precision, products->tile);
    return {{products->blocks, 1, 1}, static_cast<unsigned>(shape.threads), shape.shared_bytes()};
  }
  if (const auto* const mix = std::get_if<Mix>(&launch)) {
    // Tasks read the same rows: one after another, but where that leaves too little to do at once.
    const unsigned apart = mix->rows < kRowsApart ? static_cast<unsigned>(mix->tasks) : 1;
    return {{static_cast<unsigned>(mix->rows), apart, 1},
            kRowThreads,
            static_cast<std::size_t>(mix->tasks * mix->experts) * sizeof(float)};
  }
  constexpr int kWarps = kRowThreads / 32;
  const auto in_row = [](unsigned blocks) { return Block{{blocks, 1, 1}, kRowThreads, 0}; };
  if (const auto* const gather = std::get_if<Gather>(&launch))
    return in_row(static_cast<unsigned>(gather->single) * pieces(gather->rows, kRowThreads) +
                  static_cast<unsigned>(gather->field_count - gather->single) * pieces(gather->rows, kWarps));
  if (const auto* const patch = std::get_if<Patch>(&launch)) return in_row(pieces(patch->count, kWarps));
  if (const auto* const insert = std::get_if<Insert>(&launch)) return in_row(pieces(insert->groups, kWarps));
  if (const auto* const drop = std::get_if<Drop>(&launch)) return in_row(pieces(drop->count, kRowThreads));
  if (const auto* const work = std::get_if<RowWork>(&launch))
    return in_row(pieces(work->rows * work->groups, kWarps));
  const auto& score = std::get<Score>(launch);
  return in_row(pieces(score.rows * score.tasks, kWarps));
}

}  // namespace pepnet::cuda
