#include "check.h"
#include "cpu/cpu_budget.h"
#include "cpu/cpu_info.h"

void pepnet::test::cpu() {
  const CpuInfo info = cpu_info();
  CHECK(!info.architecture.empty());
  for (const CpuFeature& feature : info.features) CHECK(feature.present || !feature.usable);
  for (const CpuCache& cache : info.caches) CHECK(cache.level >= 1 && cache.level <= 9);

  const CpuBudget here = cpu_budget();
  CHECK(here.threads >= 1 && here.threads <= here.affinity);

  // No /proc under this root: no quota is known, the mask alone decides.
  const CpuBudget blind = cpu_budget("/nonexistent");
  CHECK(!blind.quota && blind.quota_source.empty() && blind.threads == blind.affinity);
}
