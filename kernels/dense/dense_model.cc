#include "dense/dense_model.h"

#include <algorithm>
#include <bit>

#include "cpu/cpu_info.h"
#include "dense/execute.h"
#include "dense/input_domain.h"
#include "dense/layout.h"
#include "dense/network.h"
#include "dense/pack_model.h"
#include "dense/scratch.h"
#include "dense/tensors.h"
#include "threads/thread_pool.h"

namespace pepnet {
namespace {

using namespace engine;

// With fewer rows for each thread, threads share every step instead: a thread that streams all weights for so
// few rows waits for them. Measured on Zen 4 for all precisions: from 16 rows on computing takes longer than
// streaming from the third level. AMX computes an order of magnitude faster from caches no faster.
std::size_t rows_each(const Ops& ops) {
  return ops.isa == Isa::amx && ops.activation != Activation::f32 ? 96 : 16;
}
// The most rows that threads share a step for: all of their activations pass between the caches.
constexpr std::size_t kColumnRows = 256;
// Kernels read whole cache lines, and ask for some ahead.
constexpr std::size_t kSlack = 4096;

std::size_t second_level_cache() {
  for (const CpuCache& cache : cpu_info().caches) {
    if (cache.level == 2) return cache.bytes;
  }
  return std::size_t{1} << 20;
}

// The most that one product reads and writes of a row.
std::size_t hot_bytes(const Plan& plan) {
  std::size_t most = 64;
  for (const Step& step : plan.steps) {
    const auto* const product = std::get_if<ProductStep>(&step);
    if (product == nullptr) continue;
    const std::size_t in = product->w->in + (product->gate_w == nullptr ? 0 : product->gate_w->in);
    const std::size_t floats = product->mul.none() ? 0 : 1;
    const std::size_t out = floats * sizeof(float) + (product->out_bf16 ? 2 : 4);
    most = std::max(most, in * bytes_of(product->ops->activation) + product->w->panels * kPanel * out);
  }
  return most;
}

// What a product reads and writes stays in the second level. Measured on Zen 4, 1024 rows on 2 threads, in
// every precision: from 32 rows to 256 no size is more than 5 % faster than another; int8 loses a tenth at
// 512. So few that a large batch is cut evenly among many threads.
std::size_t block_rows_of(const Plan& plan) {
  const std::size_t rows = second_level_cache() / hot_bytes(plan);
  return std::clamp<std::size_t>(rows / 32 * 32, 64, 256);
}

// Blocks are cut at multiples of this: AMX keeps one configuration of its tiles, where 32 rows fill them.
std::size_t granule_of(const Ops& ops, std::size_t block_rows) {
  return ops.isa == Isa::amx && ops.activation != Activation::f32 && block_rows % 32 == 0 ? 32 : 1;
}

struct Call {
  const Plan* plan;
  const Layout* layout;
  DenseInputs inputs;
  float* out;
  Scratch* scratch;
  std::size_t blocks;
  std::size_t granule;  // rows
  bool shared;
  const DenseConfig* config;
  const InputDomain* domain;  // null: no row is marked
  const Ops* ops;
  std::uint8_t* outside;

  void mark(std::size_t begin, std::size_t end) const {
    if (domain != nullptr) mark_outside(*config, *domain, *ops, inputs, begin, end, outside);
  }

  std::size_t first_row(std::size_t number) const {
    const std::size_t granules = (inputs.rows + granule - 1) / granule;
    return std::min(inputs.rows, granules * number / blocks * granule);
  }

  Block block(std::size_t number, std::byte* memory) const {
    const std::size_t first = first_row(number);
    const std::size_t last = first_row(number + 1);
    const DenseInputs part{inputs.general + first * plan->general, inputs.domain + first * plan->domain,
                           inputs.prior + first * plan->prior, last - first};
    const float* const init = shared ? reinterpret_cast<const float*>(scratch->sums.data()) : nullptr;
    return {plan, layout, memory, part, out + first * plan->tasks, init};
  }
};

// The first stage of both ways: sums of the shared prefix, if there is one.
class Work : public StagedWork {
 public:
  explicit Work(const Call& call) : call_(call), prefix_(call.shared ? 1 : 0) {}

  std::size_t stages() const noexcept override { return prefix_ + own_stages(); }

  std::size_t units(std::size_t stage) const noexcept override {
    if (stage >= prefix_) return own_units(stage - prefix_);
    return (call_.plan->prefix->w->panels + kUnitPanels - 1) / kUnitPanels;
  }

  void run(std::size_t stage, std::size_t begin, std::size_t end, unsigned participant) noexcept override {
    if (stage >= prefix_) return do_own(stage - prefix_, {begin, end}, participant);
    const std::size_t panels = call_.plan->prefix->w->panels;
    prefix_sums(*call_.plan, call_.scratch->prefix.data(),
                {begin * kUnitPanels, std::min(end * kUnitPanels, panels)},
                reinterpret_cast<float*>(call_.scratch->sums.data()));
  }

  void run_alone() noexcept {
    for (std::size_t stage = 0; stage < stages(); ++stage) run(stage, 0, units(stage), 0);
  }

 protected:
  const Call& call_;

 private:
  virtual std::size_t own_stages() const noexcept = 0;
  virtual std::size_t own_units(std::size_t stage) const noexcept = 0;
  virtual void do_own(std::size_t stage, Range units, unsigned participant) noexcept = 0;

  std::size_t prefix_;
};

// Each thread takes blocks of rows through all steps.
class RowsWork final : public Work {
 public:
  using Work::Work;

 private:
  std::size_t own_stages() const noexcept override { return 1; }
  std::size_t own_units(std::size_t) const noexcept override { return call_.blocks; }
  void do_own(std::size_t, Range units, unsigned participant) noexcept override {
    for (std::size_t b = units.begin; b < units.end; ++b) {
      call_.mark(call_.first_row(b), call_.first_row(b + 1));
      const Block block = call_.block(b, call_.scratch->blocks[participant].data());
      do_steps(block, 0, call_.plan->steps.size(), {0, block.inputs.rows});
    }
  }
};

// All threads take one block through stages.
class ColumnsWork final : public Work {
 public:
  using Work::Work;

 private:
  std::size_t each() const noexcept { return call_.plan->stages.size(); }
  Block block(std::size_t stage) const noexcept {
    return call_.block(stage / each(), call_.scratch->blocks.front().data());
  }
  std::size_t own_stages() const noexcept override { return call_.blocks * each(); }
  std::size_t own_units(std::size_t stage) const noexcept override {
    return units_of(call_.plan->stages[stage % each()], block(stage).inputs.rows);
  }
  void do_own(std::size_t stage, Range units, unsigned) noexcept override {
    do_units(block(stage), call_.plan->stages[stage % each()], units);
  }
};

void execute(Work& work, unsigned threads, bool spin) {
  if (threads == 1) return work.run_alone();
  ThreadPool::instance().run(work, threads, spin);
}

}  // namespace

struct DenseModel::State {
  DenseConfig config;
  DenseOptions options;
  Packer packer;
  Plan plan;
  Layout by_steps, by_stages;
  DenseInfo info;
  std::size_t least_rows = 1;  // for each thread, where rows are split
  std::size_t granule = 1;
  const Ops* ops = nullptr;
  ScratchPool scratch;

  bool split_rows(std::size_t rows, unsigned threads) const {
    if (options.split != Split::automatic) return options.split == Split::rows;
    return threads == 1 || rows >= least_rows * threads;
  }
  std::size_t column_rows() const { return options.block_rows > 0 ? options.block_rows : kColumnRows; }

  // More threads than these would find nothing to do in any stage.
  std::size_t most_units(std::size_t rows) const {
    std::size_t most = 1;
    for (const Stage& stage : plan.stages) most = std::max(most, units_of(stage, rows));
    return most;
  }

  // As equal as can be, and as many for each thread.
  std::size_t row_blocks(std::size_t rows, unsigned threads) const {
    const std::size_t least = (rows + info.block_rows - 1) / info.block_rows;
    return std::min((rows + granule - 1) / granule, round_up(least, threads));
  }

  void prepare(Scratch& memory, std::size_t blocks, std::size_t bytes, bool shared,
               const DenseInputs& inputs) {
    const std::size_t before = memory.bytes();
    if (memory.blocks.size() < blocks) memory.blocks.resize(blocks);
    for (std::size_t i = 0; i < blocks; ++i) Scratch::grow(memory.blocks[i], bytes + kSlack);
    if (shared) {
      Scratch::grow(memory.prefix, prefix_bytes(*plan.prefix) + kSlack);
      Scratch::grow(memory.sums, plan.prefix->w->panels * kPanel * sizeof(float));
      take_prefix(plan, inputs, memory.prefix.data());
    }
    scratch.count(memory.bytes() - before);
  }
};

DenseModel::DenseModel(const DenseConfig& config, const Tensors& tensors, const Ops& main, const Ops& small,
                       const DenseOptions& options)
    : state_(std::make_unique<State>()) {
  check_config(config, options);
  State& state = *state_;
  state.config = config;
  state.options = options;
  state.plan = build_network(config, check_tensors(config, tensors), main, small, options, state.packer);
  state.packer.finish();
  state.by_steps = layout_by_steps(state.plan);
  state.by_stages = layout_by_stages(state.plan);
  state.info.packed_bytes = state.packer.bytes();
  state.info.block_rows = options.block_rows > 0 ? options.block_rows : block_rows_of(state.plan);
  state.granule = granule_of(main, state.info.block_rows);
  state.ops = &small;
  state.least_rows = rows_each(main);
  state.info.row_bytes = state.by_steps.row_bytes;
  for (const Stage& stage : state.plan.stages) state.info.stages.push_back(stage.name);
}

DenseModel::~DenseModel() = default;

void DenseModel::run(const DenseInputs& inputs, float* out, unsigned threads, bool spin, bool shared_prefix,
                     std::uint8_t* outside) const {
  if (inputs.rows == 0) return;
  State& state = *state_;
  threads = std::clamp(threads, 1U, ThreadPool::kMaxParticipants);
  const bool rows = state.split_rows(inputs.rows, threads);
  const std::size_t blocks = rows ? state.row_blocks(inputs.rows, threads)
                                  : (inputs.rows + state.column_rows() - 1) / state.column_rows();
  const Layout& layout = rows ? state.by_steps : state.by_stages;
  const std::size_t granule = rows ? state.granule : 1;
  // A few sizes, so that scratch soon stops growing.
  const std::size_t most = rows ? state.info.block_rows : std::bit_ceil((inputs.rows + blocks - 1) / blocks);
  const bool shared = shared_prefix && state.plan.prefix.has_value();

  std::unique_ptr<Scratch> scratch = state.scratch.take();
  state.prepare(*scratch, rows ? std::min<std::size_t>(threads, blocks) : 1, most * layout.row_bytes, shared,
                inputs);
  const InputDomain* const domain =
      state.options.domain && outside != nullptr ? &*state.options.domain : nullptr;
  const Call call{&state.plan, &layout, inputs,        out,    scratch.get(), blocks,
                  granule,     shared,  &state.config, domain, state.ops,     outside};
  if (rows) {
    RowsWork work(call);
    execute(work, static_cast<unsigned>(std::min<std::size_t>(threads, blocks)), spin);
  } else {
    call.mark(0, inputs.rows);  // few rows, of which the threads will share every step
    ColumnsWork work(call);
    execute(work, static_cast<unsigned>(std::min<std::size_t>(threads, state.most_units(most))), spin);
  }
  state.scratch.give(std::move(scratch));
}

const DenseConfig& DenseModel::config() const { return state_->config; }
const DenseInfo& DenseModel::info() const { return state_->info; }
std::size_t DenseModel::memory_bytes() const { return state_->packer.bytes() + state_->scratch.bytes(); }

}  // namespace pepnet
