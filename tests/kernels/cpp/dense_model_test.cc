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
  const Tensors& tensors() const { return tensors_; }

 private:
  std::mt19937 random_{1};
  std::vector<Floats> memory_;
  Tensors tensors_;
};

// Widths that fill no panel, and the two shapes that a PEPNet has: gates that experts share on outputs, a mix
// and towers; or gates by task on inputs.
constexpr std::size_t kGeneral = 37, kDomain = 5, kPrior = 7, kHidden = 21, kExperts = 3, kTasks = 2;
constexpr std::size_t kLayers[] = {33, 18}, kTower = 9;

network::Network network_of(bool by_task) {
  using namespace network;
  Network net({kGeneral, kDomain, kPrior});
  const auto layer = [&](const std::string& name, ValueId x, std::size_t width,
                         std::optional<std::size_t> groups, Function function) {
    return net.add(name, network::Product{x, name + ".w", name + ".b", width, groups, {function, 0.0F, {}}});
  };
  const auto gate = [&](const std::string& name, ValueId x, std::size_t width) {
    const ValueId hidden =
        net.add(name + ".hidden",
                network::Product{x, name + ".w1", name + ".b1", kHidden, {}, {Function::relu, 0.0F, {}}});
    const ValueId argument =
        net.add(name + ".argument", network::Product{hidden, name + ".w2", name + ".b2", width, {}, {}});
    return net.add(name, Gate{argument, 2.0F});
  };
  const ValueId x1 = net.add("x1", Concat{{{1, 0, kDomain}, {0, 0, kGeneral}}});
  const ValueId o = net.add("o", Multiply{gate("epnet.gate", x1, kGeneral), 0});
  const ValueId x2 = net.add("x2", Concat{{{2, 0, kPrior}, {o, 0, kGeneral}}});
  const std::size_t groups = by_task ? kTasks : kExperts;
  ValueId h = o;
  const auto gated = [&](std::size_t l, std::size_t width) {
    const std::string name = "ppnet." + std::to_string(l);
    ValueId delta = gate(name + ".gate", x2, by_task ? groups * width : width);
    if (by_task) delta = net.add(name + ".delta", network::Split{delta, groups});
    h = net.add(name + ".gated", Multiply{h, delta});
  };
  std::size_t in = kGeneral;
  for (std::size_t l = 0; l < 2; ++l) {
    if (by_task) gated(l, in);
    h = layer("experts." + std::to_string(l), h, kLayers[l], groups, Function::relu);
    if (!by_task) gated(l, kLayers[l]);
    in = kLayers[l];
  }
  if (by_task) {
    gated(2, in);
    net.add_head({layer("experts.2", h, 1, groups, Function::identity), HeadKind::probability});
    return net;
  }
  const ValueId z =
      net.add("z", network::Split{layer("mix", o, kTasks * kExperts, {}, Function::identity), kTasks});
  const ValueId m = net.add("m", network::Mix{z, h, {}});
  const ValueId tower = layer("towers.0", m, kTower, kTasks, Function::relu);
  net.add_head({layer("towers.1", tower, 1, kTasks, Function::identity), HeadKind::probability});
  return net;
}

Weights weights_of(const network::Network& network) {
  Weights weights;
  for (const auto& [name, shape] : network.tensors()) weights.add(name, shape);
  return weights;
}

// Rows whose shared columns are those of the first.
struct Rows {
  Floats general, domain, prior;
  std::size_t count;

  Rows(std::size_t rows, unsigned seed)
      : general(rows * kGeneral), domain(rows * kDomain), prior(rows * kPrior), count(rows) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (Floats* values : {&general, &domain, &prior}) {
      for (float& value : *values) value = normal(random);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      std::memcpy(&domain[r * kDomain], domain.data(), kDomain * sizeof(float));
      std::memcpy(&general[r * kGeneral + 3], general.data() + 3, 20 * sizeof(float));
    }
  }
  DenseInputs inputs() const { return {general.data(), domain.data(), prior.data(), count}; }
};

const std::array<std::vector<std::pair<std::size_t, std::size_t>>, 3> kShared{
    {{{3, 23}}, {{0, kDomain}}, {}}};

struct Way {
  Split split;
  std::size_t block_rows;
};

std::unique_ptr<DenseModel> model_of(const network::Network& network, const Weights& weights,
                                     const Candidate& table, Way way) {
  const DenseOptions options{kShared, way.block_rows, way.split};
  return std::make_unique<DenseModel>(network, weights.tensors(), *table.ops,
                                      ops_for(table.isa, Precision::fp32), options);
}

Floats scores_of(const DenseModel& model, const Rows& rows, unsigned threads, bool spin, bool shared) {
  Floats scores(rows.count * model.scores());
  model.run(rows.inputs(), scores.data(), threads, spin, shared);
  return scores;
}

void splits_agree(const network::Network& network, const Weights& weights, const Candidate& table) {
  const Rows rows(17, 5);
  const Floats alone =
      scores_of(*model_of(network, weights, table, {Split::automatic, 0}), rows, 1, false, false);
  for (const float score : alone) CHECK(score > 0.0F && score < 1.0F);
  for (const Split split : {Split::rows, Split::columns}) {
    for (const std::size_t block_rows : {std::size_t{0}, std::size_t{4}}) {
      const auto model = model_of(network, weights, table, {split, block_rows});
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
      const network::Network network = network_of(by_task);
      models.push_back(model_of(network, weights_of(network), table, {split, 4}));
      rows.emplace_back(13, 7);
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
void rows_outside_are_scored_wide(const network::Network& network, const Weights& weights,
                                  const Candidate& table) {
  constexpr float kLimit = 8.0F;  // no value of the normal rows comes near it
  Rows rows(19, 11);
  std::vector<std::uint8_t> expected(rows.count, 0);
  rows.general[2 * kGeneral + 36] = 2 * kLimit;
  rows.domain[5 * kDomain] = -2 * kLimit;
  rows.prior[9 * kPrior + 6] = NAN;
  rows.general[13 * kGeneral + 1] = INFINITY;
  for (std::size_t c = 0; c < kGeneral; ++c) rows.general[18 * kGeneral + c] = kLimit / 2;  // its norm
  for (const std::size_t r : {2U, 5U, 9U, 13U, 18U}) expected[r] = 1;
  InputDomain domain;
  domain.largest = {Floats(kGeneral, kLimit), Floats(kDomain, kLimit), Floats(kPrior, kLimit)};
  domain.norm = {2 * kLimit, 2 * kLimit, 2 * kLimit};

  const std::size_t tasks = kTasks;
  const Ops& small = ops_for(table.isa, Precision::fp32);
  const DenseModel wide(network, weights.tensors(), small, small);
  const Floats main =
      scores_of(*model_of(network, weights, table, {Split::automatic, 0}), rows, 1, false, false);
  const Floats in_fp32 = scores_of(wide, rows, 1, false, false);
  for (const Split split : {Split::automatic, Split::rows, Split::columns}) {
    for (const std::size_t block_rows : {std::size_t{0}, std::size_t{4}}) {
      const DenseOptions options{kShared, block_rows, split, domain};
      const DenseModel model(network, weights.tensors(), *table.ops, small, options);
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
  const network::Network network = network_of(false);
  const Weights weights = weights_of(network);
  Tensors tensors = weights.tensors();
  const Floats bad(kLayers[1] * kTower * kTasks, NAN);
  tensors["towers.0.w"].data = bad.data();
  const Ops& ops = ops_for(Isa::scalar, Precision::fp32);
  bool refused = false;
  try {
    const DenseModel model(network, tensors, ops, ops);
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
      const network::Network network = network_of(by_task);
      splits_agree(network, weights_of(network), table);
      if (table.precision == Precision::int8)
        rows_outside_are_scored_wide(network, weights_of(network), table);
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
