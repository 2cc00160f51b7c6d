#include "dense/plan.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace pepnet::engine {
namespace {

// From the first to the last moment at which a buffer is touched.
struct Life {
  std::size_t begin = ~std::size_t{0};
  std::size_t end = 0;
  bool meets(const Life& other) const { return begin <= other.end && other.begin <= end; }
};

}  // namespace

Layout lay_out(const Plan& plan, bool by_stages) {
  std::vector<std::size_t> moment_of_step(plan.steps.size());
  std::iota(moment_of_step.begin(), moment_of_step.end(), std::size_t{0});
  for (std::size_t s = 0; by_stages && s < plan.stages.size(); ++s) {
    for (const Stage::Item& item : plan.stages[s].products) moment_of_step[item.step] = s;
    for (const Chain& chain : plan.stages[s].chains) {
      for (std::size_t i = chain.first; i < chain.last; ++i) moment_of_step[i] = s;
    }
  }
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

BufferId PlanBuilder::buffer(std::size_t bytes, bool quantized) {
  const std::size_t lines = round_up(bytes, 64) / 64 | 1U;
  plan.buffers.push_back({lines * 64, quantized});
  ready_.push_back(0);
  return static_cast<BufferId>(plan.buffers.size() - 1);
}

bool PlanBuilder::begin_chain() {
  if (chain_) return false;
  chain_ = plan.steps.size();
  return true;
}

void PlanBuilder::add(Step step) {
  const bool product = std::holds_alternative<ProductStep>(step);  // only these can be split by columns
  plan.steps.push_back(std::move(step));
  if (!chain_) place(plan.steps.size() - 1, product);
}

void PlanBuilder::end_chain() {
  if (*chain_ < plan.steps.size()) place(*chain_, false);
  chain_.reset();
}

// Steps from `first` on come into the first stage that may read what they read.
void PlanBuilder::place(std::size_t first, bool by_columns) {
  const std::size_t last = plan.steps.size();
  std::vector<BufferId> own;  // of a chain do not count: whoever reads them has written them
  std::size_t number = 0;
  for (std::size_t i = first; i < last; ++i) {
    each_ref(plan.steps[i], [&](const Ref& ref, bool written) {
      if (written) {
        own.push_back(ref.buffer);
      } else if (std::find(own.begin(), own.end(), ref.buffer) == own.end()) {
        number = std::max(number, ready_[ref.buffer]);
      }
    });
  }
  for (const BufferId buffer : own) ready_[buffer] = std::max(ready_[buffer], number + 1);
  if (plan.stages.size() <= number) plan.stages.resize(number + 1);
  Stage& stage = plan.stages[number];
  if (!by_columns) {
    stage.chains.push_back({first, last});
    return;
  }
  stage.products.push_back({first, stage.product_units});
  stage.product_units += (std::get<ProductStep>(plan.steps[first]).w->panels + kUnitPanels - 1) / kUnitPanels;
}

}  // namespace pepnet::engine
