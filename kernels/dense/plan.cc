#include "dense/plan.h"

#include <algorithm>
#include <utility>

namespace pepnet::engine {

BufferId PlanBuilder::buffer(std::size_t bytes, bool quantized) {
  const std::size_t lines = round_up(bytes, 64) / 64 | 1U;
  plan.buffers.push_back({lines * 64, quantized});
  ready_.push_back(0);
  return static_cast<BufferId>(plan.buffers.size() - 1);
}

void PlanBuilder::begin_chain() {
  in_chain_ = true;
  chain_ = plan.steps.size();
}

void PlanBuilder::add(const std::string& name, Step step) {
  // Only products can be split by columns.
  const bool alone = !in_chain_ && !std::holds_alternative<ProductStep>(step);
  if (alone) begin_chain();
  plan.steps.push_back(std::move(step));
  if (in_chain_) {
    names_.push_back(name);
    if (alone) end_chain();
    return;
  }
  const std::size_t index = plan.steps.size() - 1;
  const auto& product = std::get<ProductStep>(plan.steps[index]);
  const std::size_t number = earliest(index, index + 1);
  Stage& stage = stage_at(number, name);
  stage.products.push_back({index, stage.product_units});
  stage.product_units += (product.w->panels + kUnitPanels - 1) / kUnitPanels;
  each_ref(plan.steps[index], [&](const Ref& ref, bool written) {
    if (written) ready_[ref.buffer] = std::max(ready_[ref.buffer], number + 1);
  });
}

void PlanBuilder::end_chain() {
  const std::size_t last = plan.steps.size();
  const std::size_t number = earliest(chain_, last);
  for (const std::string& name : names_) stage_at(number, name);
  stage_at(number, names_.front()).chains.push_back({chain_, last});
  for (std::size_t i = chain_; i < last; ++i) {
    each_ref(plan.steps[i], [&](const Ref& ref, bool written) {
      if (written) ready_[ref.buffer] = std::max(ready_[ref.buffer], number + 1);
    });
  }
  names_.clear();
  in_chain_ = false;
}

Plan PlanBuilder::finish() { return std::move(plan); }

Stage& PlanBuilder::stage_at(std::size_t number, const std::string& name) {
  if (plan.stages.size() <= number) plan.stages.resize(number + 1);
  Stage& stage = plan.stages[number];
  const std::string padded = "+" + stage.name + "+";
  if (padded.find("+" + name + "+") == std::string::npos) {
    stage.name += (stage.name.empty() ? "" : "+") + name;
  }
  return stage;
}

// A chain's own buffers do not count: whoever reads them has written them.
std::size_t PlanBuilder::earliest(std::size_t first, std::size_t last) const {
  std::vector<BufferId> own;
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
  return number;
}

}  // namespace pepnet::engine
