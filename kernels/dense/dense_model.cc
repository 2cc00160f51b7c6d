#include "dense/dense_model.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>

#include "cpu/cpu_info.h"
#include "dense/execute.h"
#include "dense/lower.h"
#include "dense/plan.h"
#include "dense/tensors.h"
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
  for (const CpuCache& cache : read_caches()) {
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
// 512. On a Xeon (Sapphire Rapids) 128 rows are 3 % faster than 256 where a layer's weights fill the second
// level. So few that a large batch is cut evenly among many threads.
std::size_t block_rows_of(const Plan& plan) {
  const std::size_t rows = second_level_cache() / hot_bytes(plan);
  return std::clamp<std::size_t>(rows / 32 * 32, 64, 128);
}

// Blocks are cut at multiples of this: AMX keeps one configuration of its tiles, where 32 rows fill them.
std::size_t granule_of(const Ops& ops, std::size_t block_rows) {
  return ops.isa == Isa::amx && ops.activation != Activation::f32 && block_rows % 32 == 0 ? 32 : 1;
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

}  // namespace

struct DenseModel::State {
  DenseOptions options;
  Packer packer;
  Plan plan;
  Layout by_steps, by_stages;
  DenseInfo info;
  const Ops* main = nullptr;
  const Ops* small = nullptr;
  ScratchPool scratch;

  bool split_rows(std::size_t rows, unsigned threads) const {
    if (options.split != Split::automatic) return options.split == Split::rows;
    return threads == 1 || rows >= rows_each(*main) * threads;
  }
};

// One run. The first stage is the sums of the shared prefix, if there is one. By rows, there is one more:
// each thread takes blocks of rows through all steps. Otherwise all threads take one block after the other
// through its stages.
class DenseModel::Work final : public StagedWork {
 public:
  // Throws std::bad_alloc.
  Work(State& state, const DenseInputs& inputs, float* out, std::uint8_t* outside, unsigned threads,
       bool share)
      : state_(state),
        plan_(state.plan),
        inputs_(inputs),
        out_(out),
        outside_(state.options.domain ? outside : nullptr),
        by_rows_(state.split_rows(inputs.rows, threads)),
        shared_(share && !state.plan.prefixes.empty()),
        layout_(by_rows_ ? state.by_steps : state.by_stages),
        granule_(by_rows_ ? granule_of(*state.main, state.info.block_rows) : 1),
        scratch_(state.scratch.take()) {
    const std::size_t column_rows = state.options.block_rows > 0 ? state.options.block_rows : kColumnRows;
    const std::size_t block_rows = by_rows_ ? state.info.block_rows : column_rows;
    blocks_ = (inputs.rows + block_rows - 1) / block_rows;
    // As equal as can be, and as many for each thread.
    if (by_rows_) blocks_ = std::min((inputs.rows + granule_ - 1) / granule_, round_up(blocks_, threads));
    // A few sizes, so that scratch soon stops growing.
    const std::size_t most = by_rows_ ? block_rows : std::bit_ceil((inputs.rows + blocks_ - 1) / blocks_);
    // More threads would find nothing to do in any stage.
    std::size_t units = by_rows_ ? blocks_ : 1;
    for (const Stage& stage : plan_.stages)
      if (!by_rows_) units = std::max(units, units_of(stage, most));
    threads_ = static_cast<unsigned>(std::min<std::size_t>(threads, units));

    const std::size_t before = scratch_->bytes();
    const std::size_t buffers = by_rows_ ? std::min<std::size_t>(threads, blocks_) : 1;
    if (scratch_->blocks.size() < buffers) scratch_->blocks.resize(buffers);
    for (std::size_t i = 0; i < buffers; ++i)
      Scratch::grow(scratch_->blocks[i], most * layout_.row_bytes + kSlack);
    if (shared_) {
      Scratch::grow(scratch_->prefix, shared_bytes(plan_) + kSlack);
      Scratch::grow(scratch_->sums, plan_.prefix_panels * kPanel * sizeof(float));
      take_shared(plan_, inputs, scratch_->prefix.data());
    }
    state.scratch.count(scratch_->bytes() - before);
  }

  void run(bool spin) {
    if (!by_rows_) mark(0, inputs_.rows);  // few rows, of which the threads will share every step
    ThreadPool::instance().run(*this, threads_, spin);
    state_.scratch.give(std::move(scratch_));
  }

 private:
  std::size_t stages() const noexcept override {
    return shared_ + (by_rows_ ? 1 : blocks_ * plan_.stages.size());
  }

  std::size_t units(std::size_t stage) const noexcept override {
    if (stage < shared_) return (plan_.prefix_panels + kUnitPanels - 1) / kUnitPanels;
    if (by_rows_) return blocks_;
    return units_of(stage_at(stage), block_at(stage).inputs.rows);
  }

  void run(std::size_t stage, std::size_t begin, std::size_t end, unsigned participant) noexcept override {
    if (stage < shared_) {
      const Range panels{begin * kUnitPanels, std::min(end * kUnitPanels, plan_.prefix_panels)};
      prefix_sums(plan_, scratch_->prefix.data(), panels, reinterpret_cast<float*>(scratch_->sums.data()));
    } else if (by_rows_) {
      for (std::size_t b = begin; b < end; ++b) {
        mark(first_row(b), first_row(b + 1));
        const Block one = block(b, scratch_->blocks[participant].data());
        do_steps(one, 0, plan_.steps.size(), {0, one.inputs.rows});
      }
    } else {
      do_units(block_at(stage), stage_at(stage), {begin, end});
    }
  }

  // Each row by itself, so that a decision does not depend on how rows are split.
  void mark(std::size_t begin, std::size_t end) const {
    if (outside_ == nullptr) return;
    const InputDomain& domain = *state_.options.domain;
    const std::array<Columns, 3> all = columns_of(plan_.widths, inputs_);
    for (std::size_t r = begin; r < end; ++r) {
      bool inside = true;
      for (std::size_t i = 0; i < 3; ++i) {
        const Extent extent =
            state_.small->extent(all[i].data + r * all[i].width, domain.largest[i].data(), all[i].width);
        // Written so that NaN is outside.
        inside = inside && extent.beyond <= 0.0F && extent.squares <= domain.norm[i] * domain.norm[i];
      }
      outside_[r] = inside ? 0 : 1;
    }
  }

  const Stage& stage_at(std::size_t stage) const noexcept {
    return plan_.stages[(stage - shared_) % plan_.stages.size()];
  }
  Block block_at(std::size_t stage) const noexcept {
    return block((stage - shared_) / plan_.stages.size(), scratch_->blocks.front().data());
  }

  std::size_t first_row(std::size_t number) const {
    const std::size_t granules = (inputs_.rows + granule_ - 1) / granule_;
    return std::min(inputs_.rows, granules * number / blocks_ * granule_);
  }
  Block block(std::size_t number, std::byte* memory) const {
    const std::size_t first = first_row(number);
    const auto& [general, domain, prior] = plan_.widths;
    const DenseInputs part{inputs_.general + first * general, inputs_.domain + first * domain,
                           inputs_.prior + first * prior, first_row(number + 1) - first};
    const float* const sums = shared_ ? reinterpret_cast<const float*>(scratch_->sums.data()) : nullptr;
    return {&plan_, &layout_, memory, part, out_ + first * plan_.scores, sums};
  }

  State& state_;
  const Plan& plan_;
  const DenseInputs inputs_;
  float* const out_;
  std::uint8_t* const outside_;  // null: no row is marked
  const bool by_rows_, shared_;
  const Layout& layout_;
  const std::size_t granule_;  // rows
  std::unique_ptr<Scratch> scratch_;
  std::size_t blocks_ = 0;
  unsigned threads_ = 1;
};

DenseModel::DenseModel(const network::Network& network, const Tensors& tensors, const Ops& main,
                       const Ops& small, const DenseOptions& options)
    : state_(std::make_unique<State>()) {
  check_options(network, options);
  check_values(network, tensors);
  State& state = *state_;
  state.options = options;
  state.plan = Lowering(network, tensors, main, small, options, state.packer).plan();
  state.packer.finish();
  state.by_steps = lay_out(state.plan, false);
  state.by_stages = lay_out(state.plan, true);
  state.info.packed_bytes = state.packer.bytes();
  state.info.block_rows = options.block_rows > 0 ? options.block_rows : block_rows_of(state.plan);
  state.main = &main;
  state.small = &small;
}

DenseModel::~DenseModel() = default;

void DenseModel::run(const DenseInputs& inputs, float* out, unsigned threads, bool spin, bool share,
                     std::uint8_t* outside) const {
  if (inputs.rows == 0) return;
  threads = std::clamp(threads, 1U, ThreadPool::kMaxParticipants);
  Work(*state_, inputs, out, outside, threads, share).run(spin);
}

const std::array<std::size_t, 3>& DenseModel::widths() const { return state_->plan.widths; }
std::size_t DenseModel::scores() const { return state_->plan.scores; }
std::array<std::vector<std::pair<std::size_t, std::size_t>>, 3> DenseModel::shared() const {
  std::array<std::vector<std::pair<std::size_t, std::size_t>>, 3> shared;
  for (const ColumnsStep& columns : state_->plan.shared_columns)
    for (const ColumnRun& run : columns.runs)
      shared[run.input].emplace_back(run.begin, run.begin + run.count);
  return shared;
}
const DenseInfo& DenseModel::info() const { return state_->info; }
std::size_t DenseModel::memory_bytes() const { return state_->packer.bytes() + state_->scratch.bytes(); }

std::size_t score_outside(const DenseModel& wide, const DenseInputs& inputs, const std::uint8_t* outside,
                          float* out, unsigned threads, bool spin) {
  std::vector<std::size_t> rows;
  for (std::size_t r = 0; r < inputs.rows; ++r)
    if (outside[r] != 0) rows.push_back(r);
  if (rows.empty()) return 0;
  const auto all = columns_of(wide.widths(), inputs);
  const std::size_t tasks = wide.scores();
  std::array<std::vector<float>, 3> gathered;
  for (std::size_t i = 0; i < 3; ++i) {
    const auto [data, width] = all[i];
    gathered[i].resize(rows.size() * width);
    for (std::size_t k = 0; k < rows.size(); ++k)
      std::copy_n(data + rows[k] * width, width, gathered[i].data() + k * width);
  }
  std::vector<float> scores(rows.size() * tasks);
  wide.run({gathered[0].data(), gathered[1].data(), gathered[2].data(), rows.size()}, scores.data(), threads,
           spin, false);
  for (std::size_t k = 0; k < rows.size(); ++k)
    std::copy_n(scores.data() + k * tasks, tasks, out + rows[k] * tasks);
  return rows.size();
}

}  // namespace pepnet
