// From steps to launches: addresses for one run, and the grid of each kernel.
#include "cuda/program.h"

#include <stdexcept>

#include "cuda/packing.h"

namespace pepnet::cuda {
namespace {

unsigned pieces(int size, int piece) { return static_cast<unsigned>((size + piece - 1) / piece); }

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

Columns Program::columns(const Addresses& at, Place place) const {
  const BufferSpec& spec = buffers_[static_cast<std::size_t>(place.buffer)];
  const std::size_t before = static_cast<std::size_t>(place.column) * bytes_of(spec.precision);
  return {at.scratch + buffer_at(place.buffer, at.rows) + before, spec.stride, spec.precision};
}

Product Program::product(const Addresses& at, const ProductPlan& plan) const {
  Product product = plan.product;
  const auto bind_side = [&](Side& side, const SidePlan& to) {
    side.a = columns(at, to.a);
    side.w = at.weights + to.w;
    side.bias = reinterpret_cast<const float*>(at.weights + to.bias);
  };
  bind_side(product.main, plan.main);
  if (product.epilogue == Epilogue::relu_gated) bind_side(product.gate, plan.gate);
  product.rows = at.rows;
  if (plan.used_by_whole)
    product.used_by_whole = reinterpret_cast<const int*>(at.weights + *plan.used_by_whole);
  if (plan.times.buffer >= 0) product.times = columns(at, plan.times);
  product.out = columns(at, plan.out);
  return product;
}

Launch Program::bind(const Addresses& at, const StepPlan& step) const {
  if (const auto* const plan = std::get_if<ProductsPlan>(&step)) {
    ProductsLaunch launch{};
    launch.precision = precision_;
    for (const ProductPlan& one : plan->products)
      launch.products.of[launch.products.count++] = product(at, one);
    return launch;
  }
  if (const auto* const copy = std::get_if<CopyPlan>(&step)) {
    ColumnCopies all{};
    all.rows = at.live;
    for (std::size_t i = 0; i < copy->copies.size(); ++i) {
      const CopyPlan::One& one = copy->copies[i];
      const float* const from = at.inputs[static_cast<std::size_t>(one.from)];
      const Columns to = columns(at, one.to);
      const bool fours = one.width % 4 == 0 && one.padded % 4 == 0 && in_fours(to) &&
                         reinterpret_cast<std::uintptr_t>(from) % (4 * sizeof(float)) == 0;
      all.copies[i] = {from, one.width, one.padded, to, fours};
      all.first[i] = all.blocks;
      all.blocks += static_cast<int>(pieces(one.padded, kCopiedColumns));
      ++all.count;
    }
    return all;
  }
  if (const auto* const mix = std::get_if<MixPlan>(&step)) {
    return Mix{columns(at, mix->z),
               columns(at, mix->h),
               columns(at, mix->out),
               mix->experts,
               mix->columns,
               mix->tasks,
               at.rows};
  }
  const auto& score = std::get<ScorePlan>(step);
  return Score{columns(at, score.h),
               score.h_group,
               score.width,
               score.tasks,
               at.live,
               reinterpret_cast<const float*>(at.weights + score.w),
               reinterpret_cast<const float*>(at.weights + score.b),
               at.scores};
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

std::vector<Columns> Program::targets(const Addresses& at, Source input, int column) const {
  std::vector<Columns> targets;
  for (const CopyPlan::One& one : std::get<CopyPlan>(steps_.front()).copies) {
    if (one.from != input || column >= one.width) continue;
    targets.push_back(columns(at, {one.to.buffer, one.to.column + column}));
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
  const auto& score = std::get<Score>(launch);
  return in_row(pieces(score.rows * score.tasks, kWarps));
}

}  // namespace pepnet::cuda
