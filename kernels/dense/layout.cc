#include "dense/layout.h"

#include <algorithm>
#include <numeric>

namespace pepnet::engine {
namespace {

// From the first to the last moment at which a buffer is touched.
struct Life {
  std::size_t begin = ~std::size_t{0};
  std::size_t end = 0;
  bool meets(const Life& other) const { return begin <= other.end && other.begin <= end; }
};

Layout place(const Plan& plan, const std::vector<std::size_t>& moment_of_step) {
  const std::size_t count = plan.buffers.size();
  std::vector<Life> lives(count);
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    each_ref(plan.steps[i], [&](const Ref& ref, bool) {
      Life& life = lives[ref.buffer];
      life.begin = std::min(life.begin, moment_of_step[i]);
      life.end = std::max(life.end, moment_of_step[i]);
    });
  }
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return lives[a].begin < lives[b].begin; });

  // First fit: the lowest gap among those that live at the same time.
  Layout layout;
  layout.offsets.assign(count, 0);
  std::vector<std::size_t> placed;
  for (const std::size_t b : order) {
    std::vector<std::size_t> beside;
    for (const std::size_t other : placed) {
      if (lives[b].meets(lives[other])) beside.push_back(other);
    }
    std::sort(beside.begin(), beside.end(),
              [&](std::size_t x, std::size_t y) { return layout.offsets[x] < layout.offsets[y]; });
    std::size_t offset = 0;
    for (const std::size_t other : beside) {
      if (offset + plan.buffers[b].bytes() <= layout.offsets[other]) break;
      offset = std::max(offset, layout.offsets[other] + plan.buffers[other].bytes());
    }
    layout.offsets[b] = offset;
    layout.row_bytes = std::max(layout.row_bytes, offset + plan.buffers[b].bytes());
    placed.push_back(b);
  }
  return layout;
}

}  // namespace

Layout layout_by_steps(const Plan& plan) {
  std::vector<std::size_t> moments(plan.steps.size());
  std::iota(moments.begin(), moments.end(), std::size_t{0});
  return place(plan, moments);
}

Layout layout_by_stages(const Plan& plan) {
  std::vector<std::size_t> moments(plan.steps.size());
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    for (const Stage::Item& item : plan.stages[s].products) moments[item.step] = s;
    for (const Chain& chain : plan.stages[s].chains) {
      for (std::size_t i = chain.first; i < chain.last; ++i) moments[i] = s;
    }
  }
  return place(plan, moments);
}

}  // namespace pepnet::engine
