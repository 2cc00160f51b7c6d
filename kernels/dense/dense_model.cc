#include "dense/dense_model.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "cpu/cpu_info.h"
#include "dense/execute.h"
#include "dense/plan.h"
#include "threads/huge_buffer.h"
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

struct Columns {
  const float* data;
  std::size_t width;
};

std::array<Columns, 3> columns_of(const DenseConfig& config, const DenseInputs& inputs) {
  return {{{inputs.general, config.general}, {inputs.domain, config.domain}, {inputs.prior, config.prior}}};
}

// What one run at a time uses.
struct Scratch {
  std::vector<HugeBuffer> blocks;  // by participant; the first serves all when columns are split
  HugeBuffer prefix, sums;

  // Throws std::bad_alloc.
  static void grow(HugeBuffer& buffer, std::size_t bytes) {
    if (buffer.size() < bytes) buffer = HugeBuffer(bytes);
  }
  std::size_t bytes() const {
    std::size_t total = prefix.mapped_bytes() + sums.mapped_bytes();
    for (const HugeBuffer& block : blocks) total += block.mapped_bytes();
    return total;
  }
};

// Without a lock: a process forked in the middle of a run finds it usable.
class ScratchPool {
 public:
  ScratchPool() = default;
  ScratchPool(const ScratchPool&) = delete;
  ScratchPool& operator=(const ScratchPool&) = delete;
  ~ScratchPool() {
    for (std::atomic<Scratch*>& slot : slots_) delete slot.load();
  }

  std::unique_ptr<Scratch> take() {
    for (std::atomic<Scratch*>& slot : slots_) {
      if (slot.load(std::memory_order_relaxed) == nullptr) continue;
      if (Scratch* const found = slot.exchange(nullptr, std::memory_order_acquire)) {
        return std::unique_ptr<Scratch>(found);
      }
    }
    return std::make_unique<Scratch>();
  }

  void give(std::unique_ptr<Scratch> scratch) noexcept {
    for (std::atomic<Scratch*>& slot : slots_) {
      Scratch* none = nullptr;
      if (slot.load(std::memory_order_relaxed) == nullptr &&
          slot.compare_exchange_strong(none, scratch.get(), std::memory_order_release)) {
        (void)scratch.release();
        return;
      }
    }
  }

  // Bytes of scratch that has grown by `more` in a run.
  void count(std::size_t more) noexcept { bytes_.fetch_add(more, std::memory_order_relaxed); }
  std::size_t bytes() const noexcept { return bytes_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t kSlots = 64;  // more runs at once than these give theirs back to the system
  std::array<std::atomic<Scratch*>, kSlots> slots_{};
  std::atomic<std::size_t> bytes_{0};
};

struct Call {
  const Plan& plan;
  const DenseConfig& config;
  const InputDomain* domain;  // null: no row is marked
  const Ops& ops;
  const Layout& layout;
  DenseInputs inputs;
  float* out;
  std::uint8_t* outside;
  Scratch& scratch;
  std::size_t blocks;
  std::size_t granule;  // rows
  bool by_rows, shared;
};

// The first stage is the sums of the shared prefix, if there is one. By rows, there is one more: each thread
// takes blocks of rows through all steps. Otherwise all threads take one block after the other through its
// stages.
class Work final : public StagedWork, Call {
 public:
  explicit Work(const Call& call) : Call(call) {}

  std::size_t stages() const noexcept override { return shared + (by_rows ? 1 : blocks * each()); }

  std::size_t units(std::size_t stage) const noexcept override {
    if (stage < shared) return (plan.prefix->w->panels + kUnitPanels - 1) / kUnitPanels;
    if (by_rows) return blocks;
    return units_of(stage_at(stage), block_at(stage).inputs.rows);
  }

  void run(std::size_t stage, std::size_t begin, std::size_t end, unsigned participant) noexcept override {
    if (stage < shared) {
      const Range panels{begin * kUnitPanels, std::min(end * kUnitPanels, plan.prefix->w->panels)};
      prefix_sums(plan, scratch.prefix.data(), panels, reinterpret_cast<float*>(scratch.sums.data()));
    } else if (by_rows) {
      for (std::size_t b = begin; b < end; ++b) {
        mark(first_row(b), first_row(b + 1));
        const Block one = block(b, scratch.blocks[participant].data());
        do_steps(one, 0, plan.steps.size(), {0, one.inputs.rows});
      }
    } else {
      do_units(block_at(stage), stage_at(stage), {begin, end});
    }
  }

  // Each row by itself, so that a decision does not depend on how rows are split.
  void mark(std::size_t begin, std::size_t end) const {
    if (domain == nullptr) return;
    const std::array<Columns, 3> all = columns_of(config, inputs);
    for (std::size_t r = begin; r < end; ++r) {
      bool inside = true;
      for (std::size_t i = 0; i < 3; ++i) {
        const Extent extent =
            ops.extent(all[i].data + r * all[i].width, domain->largest[i].data(), all[i].width);
        // Written so that NaN is outside.
        inside = inside && extent.beyond <= 0.0F && extent.squares <= domain->norm[i] * domain->norm[i];
      }
      outside[r] = inside ? 0 : 1;
    }
  }

 private:
  std::size_t each() const noexcept { return plan.stages.size(); }
  const Stage& stage_at(std::size_t stage) const noexcept { return plan.stages[(stage - shared) % each()]; }
  Block block_at(std::size_t stage) const noexcept {
    return block((stage - shared) / each(), scratch.blocks.front().data());
  }

  std::size_t first_row(std::size_t number) const {
    const std::size_t granules = (inputs.rows + granule - 1) / granule;
    return std::min(inputs.rows, granules * number / blocks * granule);
  }
  Block block(std::size_t number, std::byte* memory) const {
    const std::size_t first = first_row(number);
    const DenseInputs part{inputs.general + first * plan.general, inputs.domain + first * plan.domain,
                           inputs.prior + first * plan.prior, first_row(number + 1) - first};
    const float* const init = shared ? reinterpret_cast<const float*>(scratch.sums.data()) : nullptr;
    return {&plan, &layout, memory, part, out + first * plan.tasks, init};
  }
};

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
  Work work({state.plan, state.config, domain, *state.ops, layout, inputs, out, outside, *scratch, blocks,
             granule, rows, shared});
  if (!rows) work.mark(0, inputs.rows);  // few rows, of which the threads will share every step
  const std::size_t most_threads = rows ? blocks : state.most_units(most);
  ThreadPool::instance().run(work, static_cast<unsigned>(std::min<std::size_t>(threads, most_threads)), spin);
  state.scratch.give(std::move(scratch));
}

const DenseConfig& DenseModel::config() const { return state_->config; }
const DenseInfo& DenseModel::info() const { return state_->info; }
std::size_t DenseModel::memory_bytes() const { return state_->packer.bytes() + state_->scratch.bytes(); }

std::size_t score_outside(const DenseModel& wide, const DenseInputs& inputs, const std::uint8_t* outside,
                          float* out, unsigned threads, bool spin) {
  const auto count = static_cast<std::size_t>(std::count(outside, outside + inputs.rows, std::uint8_t{1}));
  if (count == 0) return 0;
  const auto all = columns_of(wide.config(), inputs);
  const std::size_t tasks = wide.config().tasks;
  std::array<std::vector<float>, 3> gathered;
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t width = all[i].width;
    gathered[i].resize(count * width);
    float* to = gathered[i].data();
    for (std::size_t r = 0; r < inputs.rows && width > 0; ++r) {
      if (outside[r] == 0) continue;
      std::memcpy(to, all[i].data + r * width, width * sizeof(float));
      to += width;
    }
  }
  std::vector<float> scores(count * tasks);
  wide.run({gathered[0].data(), gathered[1].data(), gathered[2].data(), count}, scores.data(), threads, spin,
           false);
  const float* from = scores.data();
  for (std::size_t r = 0; r < inputs.rows; ++r) {
    if (outside[r] == 0) continue;
    std::memcpy(out + r * tasks, from, tasks * sizeof(float));
    from += tasks;
  }
  return count;
}

}  // namespace pepnet
