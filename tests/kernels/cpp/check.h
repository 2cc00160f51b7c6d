// What the tests need of a test framework.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace pepnet::test {

inline int checks = 0;

[[noreturn]] inline void fail(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
  std::exit(1);
}

#define CHECK(condition)                                                  \
  do {                                                                    \
    ++pepnet::test::checks;                                               \
    if (!(condition)) pepnet::test::fail(__FILE__, __LINE__, #condition); \
  } while (false)

void activations();
void cpu();
void dense_model();
void features();
void file_map();
void flights();
void exact_cache();
void huge_buffer();
void key_index();
void network();
void ops();
void pool_process();
void row_cache();
void row_cache_threads();
void row_overlay();
void rows();
void thread_pool();
void threads();
void tiles();

}  // namespace pepnet::test
