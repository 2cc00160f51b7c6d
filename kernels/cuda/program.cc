// From steps to launches: addresses for one run, and the grid of each kernel.
#include "cuda/program.h"

#include <algorithm>

#include "cuda/packing.h"

namespace pepnet::cuda {

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
Side<T> Program<T>::side(const Addresses& at, const SidePlan& plan) const {
  return {reinterpret_cast<const T*>(address(at, plan.a)),
          buffers_[static_cast<std::size_t>(plan.a.buffer)].stride,
          plan.a_group,
          reinterpret_cast<const T*>(at.weights + plan.w),
          plan.w_group,
          reinterpret_cast<const float*>(at.weights + plan.bias),
          plan.bias_group,
          plan.depth};
}

template <class T>
std::vector<Launch<T>> Program<T>::bind(const Addresses& at) const {
  const auto stride = [&](Place place) { return buffers_[static_cast<std::size_t>(place.buffer)].stride; };
  const auto floats = [&](Place place) { return buffers_[static_cast<std::size_t>(place.buffer)].floats; };
  std::vector<Launch<T>> launches;
  for (const StepPlan& step : steps_) {
    if (const auto* const copy = std::get_if<CopyPlan>(&step)) {
      ColumnCopies all{};
      all.rows = at.rows;
      for (std::size_t i = 0; i < copy->copies.size(); ++i) {
        const CopyPlan::One& one = copy->copies[i];
        const float* const from = one.from == Source::general  ? at.general
                                  : one.from == Source::domain ? at.domain
                                                               : at.prior;
        all.copies[i] = {from, one.width, one.padded, address(at, one.to), stride(one.to), floats(one.to)};
      }
      launches.push_back(all);
    } else if (const auto* const plan = std::get_if<ProductPlan>(&step)) {
      Product<T> product{};
      product.main = side(at, plan->main);
      const bool gated = plan->epilogue == Epilogue::relu_gated;
      if (gated) product.gate = side(at, plan->gate);
      product.epilogue = plan->epilogue;
      product.gamma = config_.gamma;
      product.rows = at.rows;
      product.columns = plan->columns;
      product.used = plan->used;
      if (plan->side_by_side)
        product.used_by_tile = reinterpret_cast<const int*>(at.weights + plan->used_by_tile);
      if (plan->times.buffer >= 0) {
        product.times = address(at, plan->times);
        product.times_stride = stride(plan->times);
        product.times_group = plan->times_group;
        product.times_floats = floats(plan->times);
      }
      product.out = address(at, plan->out);
      product.out_stride = stride(plan->out);
      product.out_group = plan->out_group;
      product.out_floats = floats(plan->out);
      launches.push_back(ProductLaunch<T>{product, gated});
    } else if (const auto* const mix = std::get_if<MixPlan>(&step)) {
      launches.push_back(Mix{reinterpret_cast<const float*>(address(at, mix->z)), stride(mix->z),
                             mix->experts, reinterpret_cast<const float*>(address(at, mix->h)),
                             stride(mix->h), mix->columns, address(at, mix->out), stride(mix->out),
                             floats(mix->out), at.rows});
    } else {
      const auto& score = std::get<ScorePlan>(step);
      launches.push_back(Score{reinterpret_cast<const float*>(address(at, score.h)), stride(score.h),
                               score.h_group, reinterpret_cast<const float*>(at.weights + score.w),
                               reinterpret_cast<const float*>(at.weights + score.b), score.width, score.tasks,
                               at.rows, at.scores});
    }
  }
  return launches;
}

template <class T>
std::vector<StepCost> Program<T>::costs() const {
  std::vector<StepCost> costs;
  for (const StepPlan& step : steps_) {
    const auto* const plan = std::get_if<ProductPlan>(&step);
    if (plan == nullptr) continue;
    StepCost cost{plan->name, 0, 0};
    for (const SidePlan* const side : {&plan->main, &plan->gate}) {
      if (side->depth == 0) continue;
      const double weights = static_cast<double>(side->depth) * plan->columns;
      cost.flops += 2 * weights * plan->groups;
      cost.weight_bytes += weights * (side->w_group > 0 ? plan->groups : 1) * sizeof(T);
    }
    costs.push_back(cost);
  }
  return costs;
}

namespace {

unsigned pieces(int size, int piece) { return static_cast<unsigned>((size + piece - 1) / piece); }

}  // namespace

template <class T>
Block block_of(const Launch<T>& launch) {
  if (const auto* const copy = std::get_if<ColumnCopies>(&launch)) {
    int widest = 0;
    unsigned count = 0;
    for (const ColumnCopy& one : copy->copies) {
      widest = std::max(widest, one.padded);
      count += one.padded > 0;
    }
    return {{pieces(widest, kRowThreads), static_cast<unsigned>(copy->rows), count}, kRowThreads, 0};
  }
  if (const auto* const product = std::get_if<ProductLaunch<T>>(&launch)) {
    const Product<T>& p = product->product;
    const auto groups = static_cast<unsigned>(p.out_group > 0 ? p.out_stride / p.out_group : 1);
    return {{pieces(p.columns, kTile), pieces(p.rows, kTile), groups},
            static_cast<unsigned>(Tiles<T>::kThreads),
            sizeof(typename Tiles<T>::Type)};
  }
  if (const auto* const mix = std::get_if<Mix>(&launch)) {
    return {{static_cast<unsigned>(mix->rows), static_cast<unsigned>(mix->out_stride / mix->columns), 1},
            kRowThreads,
            0};
  }
  const auto& score = std::get<Score>(launch);
  return {{pieces(score.rows * score.tasks, kRowThreads / 32), 1, 1}, kRowThreads, 0};
}

template std::size_t Program<float>::scratch_bytes(int) const;
template std::size_t Program<bf16>::scratch_bytes(int) const;
template std::vector<Launch<float>> Program<float>::bind(const Addresses&) const;
template std::vector<Launch<bf16>> Program<bf16>::bind(const Addresses&) const;
template std::vector<StepCost> Program<float>::costs() const;
template std::vector<StepCost> Program<bf16>::costs() const;
template Block block_of<float>(const Launch<float>&);
template Block block_of<bf16>(const Launch<bf16>&);

}  // namespace pepnet::cuda
