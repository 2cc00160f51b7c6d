#include <cstdio>
#include <cstring>

#include "check.h"

int main(int argc, char** argv) {
  using namespace pepnet::test;
  struct {
    const char* name;
    void (*run)();
  } const suites[] = {{"activations", activations},
                      {"cpu", cpu},
                      {"dense_model", dense_model},
                      {"features", features},
                      {"file_map", file_map},
                      {"flights", flights},
                      {"exact_cache", exact_cache},
                      {"huge_buffer", huge_buffer},
                      {"key_index", key_index},
                      {"network", network},
                      {"ops", ops},
                      {"pool_process", pool_process},
                      {"row_cache", row_cache},
                      {"row_cache_threads", row_cache_threads},
                      {"row_overlay", row_overlay},
                      {"rows", rows},
                      {"thread_pool", thread_pool},
                      {"threads", threads},
                      {"tiles", tiles}};
  for (const auto& suite : suites) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], suite.name) == 0;
    if (!wanted) continue;
    checks = 0;
    suite.run();
    std::printf("%s: %d checks\n", suite.name, checks);
    if (checks == 0) fail(__FILE__, __LINE__, "a suite without checks");
  }
  return 0;
}
