// Eight threads read one index and one table at once: what the thread sanitizer is for.
#include <thread>
#include <vector>

#include "check.h"
#include "rows/lookup.h"

void pepnet::test::threads() {
  constexpr std::size_t kRows = 3'000;
  constexpr std::size_t kDim = 4;
  std::vector<std::uint64_t> keys;
  std::vector<float> rows, default_row(kDim, -1.0F);
  for (std::size_t i = 0; i < kRows; ++i) {
    keys.push_back(i * 7);
    for (std::size_t d = 0; d < kDim; ++d) rows.push_back(static_cast<float>(i));
  }
  const KeyIndex index({keys.data(), keys.size()});
  const RowsView view{reinterpret_cast<const std::byte*>(rows.data()), kRows, kDim, RowType::kFloat32};

  std::vector<std::size_t> wrong(8, 0);
  std::vector<std::thread> workers;
  for (std::size_t worker = 0; worker < wrong.size(); ++worker) {
    workers.emplace_back([&, worker] {
      std::vector<std::uint64_t> asked;
      for (std::size_t i = 0; i < 500; ++i) asked.push_back((i * 13 + worker) % (kRows * 8));
      std::vector<float> out(asked.size() * kDim), pooled(kDim);
      const std::vector<std::int64_t> offsets = {0, static_cast<std::int64_t>(asked.size())};
      for (int round = 0; round < 20; ++round) {
        lookup(index, view, {asked.data(), asked.size()}, {default_row.data(), kDim},
               OutView{out.data(), asked.size(), kDim}, nullptr);
        double sum = 0;
        for (std::size_t i = 0; i < asked.size(); ++i) {
          const bool known = asked[i] % 7 == 0 && asked[i] / 7 < kRows;
          const float expected = known ? static_cast<float>(asked[i] / 7) : -1.0F;
          wrong[worker] += out[i * kDim] == expected ? 0U : 1U;
          sum += static_cast<double>(expected);
        }
        lookup_pool(index, view, {asked.data(), asked.size()}, {offsets.data(), 2}, Pooling::kSum,
                    {default_row.data(), kDim}, OutView{pooled.data(), 1, kDim});
        wrong[worker] += static_cast<double>(pooled[0]) == sum ? 0U : 1U;  // whole numbers below 2^24: exact
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  for (const std::size_t count : wrong) CHECK(count == 0);
}
