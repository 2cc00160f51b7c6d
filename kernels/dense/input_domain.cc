#include "dense/input_domain.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

namespace pepnet::engine {
namespace {

struct Columns {
  const float* data;
  std::size_t width;
};

std::array<Columns, 3> columns_of(const DenseConfig& config, const DenseInputs& inputs) {
  return {{{inputs.general, config.general}, {inputs.domain, config.domain}, {inputs.prior, config.prior}}};
}

}  // namespace

void mark_outside(const DenseConfig& config, const InputDomain& domain, const Ops& ops,
                  const DenseInputs& inputs, std::size_t begin, std::size_t end, std::uint8_t* outside) {
  const std::array<Columns, 3> all = columns_of(config, inputs);
  for (std::size_t r = begin; r < end; ++r) {
    bool inside = true;
    for (std::size_t i = 0; i < 3; ++i) {
      const Extent extent =
          ops.extent(all[i].data + r * all[i].width, domain.largest[i].data(), all[i].width);
      // Written so that NaN is outside.
      inside = inside && extent.beyond <= 0.0F && extent.squares <= domain.norm[i] * domain.norm[i];
    }
    outside[r] = inside ? 0 : 1;
  }
}

}  // namespace pepnet::engine

namespace pepnet {

std::size_t score_outside(const DenseModel& wide, const DenseInputs& inputs, const std::uint8_t* outside,
                          float* out, unsigned threads, bool spin) {
  const auto count = static_cast<std::size_t>(std::count(outside, outside + inputs.rows, std::uint8_t{1}));
  if (count == 0) return 0;
  const auto all = engine::columns_of(wide.config(), inputs);
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
