// From steps to launches: addresses for one run, and the grid of each kernel.
#include "cuda/program.h"

#include <stdexcept>

#include "cuda/packing.h"

namespace pepnet::cuda {
namespace {

unsigned pieces(int size, int piece) { return static_cast<unsigned>((size + piece - 1) / piece); }

}  // namespace

template <class T>
std::size_t Program<T>::buffer_at(int buffer, int rows) const {
  std::size_t at = 0;
  for (int i = 0; i < buffer; ++i) {
    const BufferSpec& spec = buffers_[static_cast<std::size_t>(i)];
    const std::size_t bytes = spec.floats ? sizeof(float) : sizeof(T);
    at += up(static_cast<std::size_t>(spec.stride) * bytes * static_cast<std::size_t>(rows), kAlign);
  }
  return at;
}

template <class T>
std::size_t Program<T>::scratch_bytes(int rows) const {
  return buffer_at(static_cast<int>(buffers_.size()), rows);
}

template <class T>
std::byte* Program<T>::address(const Addresses& at, Place place) const {
  const BufferSpec& spec = buffers_[static_cast<std::size_t>(place.buffer)];
  const std::size_t bytes = spec.floats ? sizeof(float) : sizeof(T);
  return at.scratch + buffer_at(place.buffer, at.rows) + static_cast<std::size_t>(place.column) * bytes;
}

template <class T>
Columns Program<T>::columns(const Addresses& at, Place place) const {
  return {address(at, place), stride(place), buffers_[static_cast<std::size_t>(place.buffer)].floats};
}

template <class T>
Side<T> Program<T>::side(const Addresses& at, const SidePlan& plan) const {
  return {reinterpret_cast<const T*>(address(at, plan.a)),
          stride(plan.a),
          plan.a_group,
          reinterpret_cast<const T*>(at.weights + plan.w),
          plan.w_group,
          reinterpret_cast<const float*>(at.weights + plan.bias),
          plan.bias_group,
          plan.depth};
}

template <class T>
Product<T> Program<T>::product(const Addresses& at, const ProductPlan& plan) const {
  Product<T> product{};
  product.main = side(at, plan.main);
  if (plan.epilogue == Epilogue::relu_gated) product.gate = side(at, plan.gate);
  product.epilogue = plan.epilogue;
  product.gamma = config_.gamma;
  product.rows = at.rows;
  product.groups = plan.groups;
  product.columns = plan.columns;
  product.used = plan.used;
  if (plan.side_by_side)
    product.used_by_whole = reinterpret_cast<const int*>(at.weights + plan.used_by_whole);
  if (plan.times.buffer >= 0) product.times = columns(at, plan.times);
  product.times_group = plan.times_group;
  product.out = columns(at, plan.out);
  product.out_group = plan.out_group;
  return product;
}

template <class T>
Launch<T> Program<T>::bind(const Addresses& at, const StepPlan& step) const {
  if (const auto* const plan = std::get_if<ProductsPlan>(&step)) {
    ProductsLaunch<T> launch{};
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
      const bool fours = one.width % 4 == 0 && one.padded % 4 == 0 && in_fours<T>(to) &&
                         reinterpret_cast<std::uintptr_t>(from) % (4 * sizeof(float)) == 0;
      all.copies[i] = {from, one.width, one.padded, to, fours};
      all.first[i] = all.blocks;
      all.blocks += static_cast<int>(pieces(one.padded, kCopiedColumns));
      ++all.count;
    }
    return all;
  }
  if (const auto* const mix = std::get_if<MixPlan>(&step)) {
    return Mix{reinterpret_cast<const float*>(address(at, mix->z)),
               stride(mix->z),
               mix->experts,
               reinterpret_cast<const float*>(address(at, mix->h)),
               stride(mix->h),
               mix->columns,
               mix->tasks,
               columns(at, mix->out),
               at.rows};
  }
  const auto& score = std::get<ScorePlan>(step);
  return Score{reinterpret_cast<const float*>(address(at, score.h)),
               stride(score.h),
               score.h_group,
               reinterpret_cast<const float*>(at.weights + score.w),
               reinterpret_cast<const float*>(at.weights + score.b),
               score.width,
               score.tasks,
               at.live,
               at.scores};
}

template <class T>
std::vector<Launch<T>> Program<T>::bind(const Addresses& at, std::span<const TileChoice> tiles) const {
  std::vector<Launch<T>> launches;
  std::size_t next = 0;
  for (const StepPlan& step : steps_) {
    launches.push_back(bind(at, step));
    if (auto* const products = std::get_if<ProductsLaunch<T>>(&launches.back()))
      arrange(*products, tiles[next++].tile);
  }
  return launches;
}

template <class T>
std::vector<const ProductsPlan*> Program<T>::product_launches() const {
  std::vector<const ProductsPlan*> launches;
  for (const StepPlan& step : steps_)
    if (const auto* const launch = std::get_if<ProductsPlan>(&step)) launches.push_back(launch);
  return launches;
}

template <class T>
std::vector<Columns> Program<T>::targets(const Addresses& at, Source input, int column) const {
  std::vector<Columns> targets;
  for (const CopyPlan::One& one : std::get<CopyPlan>(steps_.front()).copies) {
    if (one.from != input || column >= one.width) continue;
    targets.push_back(columns(at, {one.to.buffer, one.to.column + column}));
  }
  return targets;
}

template <class T>
std::vector<StepCost> Program<T>::costs() const {
  std::vector<StepCost> costs;
  std::size_t number = 0;
  for (const ProductsPlan* const launch : product_launches()) {
    for (const ProductPlan& plan : launch->products) {
      StepCost cost{plan.name, number, 0, 0};
      for (const SidePlan* const side : {&plan.main, &plan.gate}) {
        if (side->depth == 0) continue;
        const double weights = static_cast<double>(side->depth) * plan.columns;
        cost.flops += 2 * weights * plan.groups;
        cost.weight_bytes += weights * (side->w_group > 0 ? plan.groups : 1) * sizeof(T);
      }
      costs.push_back(cost);
    }
    ++number;
  }
  return costs;
}

template <class T>
void arrange(ProductsLaunch<T>& launch, Tile tile) {
  if (launch.gated() && !can_be_gated(tile))
    throw std::logic_error("cuda: gated products in a tile without room");
  const Shape shape = shape_of<T>(tile);
  launch.tile = tile;
  launch.blocks = 0;
  for (int i = 0; i < launch.products.count; ++i) {
    const Product<T>& p = launch.products.of[i];
    launch.products.first[i] = static_cast<int>(launch.blocks);
    launch.blocks +=
        pieces(p.rows, shape.rows) * pieces(p.columns, shape.columns) * static_cast<unsigned>(p.groups);
  }
}

template <class T>
Block block_of(const Launch<T>& launch) {
  if (const auto* const copy = std::get_if<ColumnCopies>(&launch)) {
    return {{static_cast<unsigned>(copy->blocks), pieces(copy->rows, kCopiedRows), 1}, kRowThreads, 0};
  }
  if (const auto* const products = std::get_if<ProductsLaunch<T>>(&launch)) {
    const Shape shape = shape_of<T>(products->tile);
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

template class Program<float>;
template class Program<bf16>;
template void arrange(ProductsLaunch<float>&, Tile);
template void arrange(ProductsLaunch<bf16>&, Tile);
template Block block_of<float>(const Launch<float>&);
template Block block_of<bf16>(const Launch<bf16>&);

}  // namespace pepnet::cuda
