#include "dense/dense_model.h"

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "dense/dispatch.h"

namespace pepnet::test {
namespace {

using Floats = std::vector<float>;

// Random tensors by name; vectors of their exact size, so that a sanitizer sees a read beyond one.
class Weights {
 public:
  void add(const std::string& name, const std::vector<std::size_t>& shape) {
    std::size_t count = 1;
    for (const std::size_t n : shape) count *= n;
    const bool matrix = shape.size() > 1 && name.back() != 'b';
    const float spread = matrix ? 1.0F / std::sqrt(static_cast<float>(shape[shape.size() - 2])) : 0.3F;
    std::normal_distribution<float> normal(0.0F, spread);
    Floats& values = memory_.emplace_back(count);
    for (float& value : values) value = normal(random_);
    tensors_[name] = {values.data(), shape};
  }
  void add_gate(const std::string& name, std::size_t in, std::size_t hidden, std::size_t out) {
    add(name + ".w1", {in, hidden});
    add(name + ".b1", {hidden});
    add(name + ".w2", {hidden, out});
    add(name + ".b2", {out});
  }
  const Tensors& tensors() const { return tensors_; }

 private:
  std::mt19937 random_{1};
  std::vector<Floats> memory_;
  Tensors tensors_;
};

// Widths that fill no panel. The defaults of the two backbones: shared gates on outputs, gates by task on
// inputs.
DenseConfig config_of(bool by_task) {
  DenseConfig config;
  config.general = 37;
  config.domain = 5;
  config.prior = 7;
  config.layers = {33, 18};
  if (!by_task) config.towers = {9};
  config.experts = 3;
  config.tasks = 2;
  config.gate_hidden = 21;
  config.by_task = config.input_gates = config.group_gates = by_task;
  return config;
}

Weights weights_of(const DenseConfig& config) {
  Weights weights;
  weights.add_gate("epnet.gate", config.domain + config.general, config.gate_hidden, config.general);
  std::vector<std::size_t> widths = config.layers;
  if (config.by_task) widths.insert(widths.begin(), config.general);
  for (std::size_t l = 0; l < widths.size(); ++l) {
    const std::size_t out = config.by_task ? config.tasks * widths[l] : widths[l];
    weights.add_gate("ppnet." + std::to_string(l) + ".gate", config.prior + config.general,
                     config.gate_hidden, out);
  }
  std::vector<std::size_t> outs = config.layers;
  if (config.by_task) outs.push_back(1);
  std::size_t in = config.general;
  for (std::size_t l = 0; l < outs.size(); ++l) {
    weights.add("experts." + std::to_string(l) + ".w", {config.groups(), in, outs[l]});
    weights.add("experts." + std::to_string(l) + ".b", {config.groups(), outs[l]});
    in = outs[l];
  }
  if (config.by_task) return weights;
  weights.add("mix.w", {config.general, config.tasks * config.experts});
  weights.add("mix.b", {config.tasks * config.experts});
  weights.add("towers.0.w", {config.tasks, in, 9});
  weights.add("towers.0.b", {config.tasks, 9});
  weights.add("towers.1.w", {config.tasks, 9, 1});
  weights.add("towers.1.b", {config.tasks, 1});
  return weights;
}

// Rows whose shared columns are those of the first.
struct Rows {
  Floats general, domain, prior;
  std::size_t count;

  Rows(const DenseConfig& config, std::size_t rows, unsigned seed)
      : general(rows * config.general),
        domain(rows * config.domain),
        prior(rows * config.prior),
        count(rows) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (Floats* values : {&general, &domain, &prior}) {
      for (float& value : *values) value = normal(random);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      std::memcpy(&domain[r * config.domain], domain.data(), config.domain * sizeof(float));
      std::memcpy(&general[r * config.general + 3], general.data() + 3, 20 * sizeof(float));
    }
  }
  DenseInputs inputs() const { return {general.data(), domain.data(), prior.data(), count}; }
};

struct Way {
  Split split;
  std::size_t block_rows;
};

std::unique_ptr<DenseModel> model_of(const DenseConfig& config, const Weights& weights,
                                     const Candidate& table, Way way) {
  const DenseOptions options{{{3, 23}}, way.block_rows, way.split};
  return std::make_unique<DenseModel>(config, weights.tensors(), *table.ops,
                                      ops_for(table.isa, Precision::fp32), options);
}

Floats scores_of(const DenseModel& model, const Rows& rows, unsigned threads, bool spin, bool shared) {
  Floats scores(rows.count * model.config().tasks);
  model.run(rows.inputs(), scores.data(), threads, spin, shared);
  return scores;
}

void splits_agree(const DenseConfig& config, const Weights& weights, const Candidate& table) {
  const Rows rows(config, 17, 5);
  const Floats alone =
      scores_of(*model_of(config, weights, table, {Split::automatic, 0}), rows, 1, false, false);
  for (const float score : alone) CHECK(score > 0.0F && score < 1.0F);
  for (const Split split : {Split::rows, Split::columns}) {
    for (const std::size_t block_rows : {std::size_t{0}, std::size_t{4}}) {
      const auto model = model_of(config, weights, table, {split, block_rows});
      std::size_t memory = 0;
      for (unsigned round = 0; round < 12; ++round) {
        CHECK(scores_of(*model, rows, round % 3 + 1, round % 2 == 0, round % 4 < 2) == alone);
        // Every kind of call has been seen by now.
        if (round < 6) memory = model->memory_bytes();
        CHECK(model->memory_bytes() == memory);
      }
    }
  }
}

// Four models, six callers.
void callers_at_once(const Candidate& table) {
  std::atomic<int> wrong{0};
  std::vector<std::unique_ptr<DenseModel>> models;
  std::vector<Rows> rows;
  std::vector<Floats> expected;
  for (const bool by_task : {false, true}) {
    for (const Split split : {Split::rows, Split::columns}) {
      const DenseConfig config = config_of(by_task);
      models.push_back(model_of(config, weights_of(config), table, {split, 4}));
      rows.emplace_back(config, 13, 7);
      expected.push_back(scores_of(*models.back(), rows.back(), 1, false, false));
    }
  }
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&, caller] {
      for (unsigned round = 0; round < 8; ++round) {
        const std::size_t which = (caller + round) % 4;
        const Floats scores =
            scores_of(*models[which], rows[which], round % 4 + 1, caller % 2 == 0, round % 3 == 0);
        if (scores != expected[which]) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

bool same_bits(const Floats& scores, const Floats& others, std::size_t row, std::size_t tasks) {
  return std::memcmp(&scores[row * tasks], &others[row * tasks], tasks * sizeof(float)) == 0;
}

// Rows within the domain have the scores of the main precision, the others those of fp32: bit for bit,
// however the rows are split and whoever else is in the batch.
void rows_outside_are_scored_wide(const DenseConfig& config, const Weights& weights, const Candidate& table) {
  constexpr float kLimit = 8.0F;  // no value of the normal rows comes near it
  Rows rows(config, 19, 11);
  std::vector<std::uint8_t> expected(rows.count, 0);
  rows.general[2 * config.general + 36] = 2 * kLimit;
  rows.domain[5 * config.domain] = -2 * kLimit;
  rows.prior[9 * config.prior + 6] = NAN;
  rows.general[13 * config.general + 1] = INFINITY;
  for (std::size_t c = 0; c < config.general; ++c)
    rows.general[18 * config.general + c] = kLimit / 2;  // its norm
  for (const std::size_t r : {2U, 5U, 9U, 13U, 18U}) expected[r] = 1;
  InputDomain domain;
  domain.largest = {Floats(config.general, kLimit), Floats(config.domain, kLimit),
                    Floats(config.prior, kLimit)};
  domain.norm = {2 * kLimit, 2 * kLimit, 2 * kLimit};

  const std::size_t tasks = config.tasks;
  const Ops& small = ops_for(table.isa, Precision::fp32);
  const DenseModel wide(config, weights.tensors(), small, small);
  const Floats main =
      scores_of(*model_of(config, weights, table, {Split::automatic, 0}), rows, 1, false, false);
  const Floats in_fp32 = scores_of(wide, rows, 1, false, false);
  for (const Split split : {Split::automatic, Split::rows, Split::columns}) {
    for (const std::size_t block_rows : {std::size_t{0}, std::size_t{4}}) {
      const DenseOptions options{{{3, 23}}, block_rows, split, domain};
      const DenseModel model(config, weights.tensors(), *table.ops, small, options);
      for (const unsigned threads : {1U, 3U}) {
        std::vector<std::uint8_t> outside(rows.count, 7);
        Floats scores(rows.count * tasks);
        model.run(rows.inputs(), scores.data(), threads, false, false, outside.data());
        CHECK(outside == expected);
        CHECK(score_outside(wide, rows.inputs(), outside.data(), scores.data(), threads, false) == 5);
        for (std::size_t r = 0; r < rows.count; ++r) {
          CHECK(same_bits(scores, expected[r] == 1 ? in_fp32 : main, r, tasks));
        }
        const std::vector<std::uint8_t> none(rows.count, 0);
        const Floats before = scores;
        CHECK(score_outside(wide, rows.inputs(), none.data(), scores.data(), threads, false) == 0);
        for (std::size_t r = 0; r < rows.count; ++r) CHECK(same_bits(scores, before, r, tasks));
      }
    }
  }
}

void bad_weights_leave_nothing_behind() {
  DenseConfig config = config_of(false);
  const Weights weights = weights_of(config);
  Tensors tensors = weights.tensors();
  const Floats bad(config.layers[1] * 9 * config.tasks, NAN);
  tensors["towers.0.w"].data = bad.data();
  const Ops& ops = ops_for(Isa::scalar, Precision::fp32);
  bool refused = false;
  try {
    const DenseModel model(config, tensors, ops, ops);
  } catch (const std::invalid_argument& error) {
    refused = std::string(error.what()).find("towers.0.w: expected finite values, got nan") == 0;
  }
  CHECK(refused);
}

}  // namespace

void dense_model() {
  for (const Candidate& table : candidates()) {
    if (!table.usable) continue;
    for (const bool by_task : {false, true}) {
      const DenseConfig config = config_of(by_task);
      splits_agree(config, weights_of(config), table);
      if (table.precision == Precision::int8) rows_outside_are_scored_wide(config, weights_of(config), table);
    }
  }
  // What runs at once is the same for every table of a precision.
  for (const Precision precision : kPrecisions) {
    const Ops& widest = *choose(precision).ops;
    for (const Candidate& table : candidates()) {
      if (table.usable && table.ops == &widest) callers_at_once(table);
    }
  }
  bad_weights_leave_nothing_behind();
}

}  // namespace pepnet::test
