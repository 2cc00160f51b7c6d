// One warp that does what it is told: what the emulation returns, and what it ends the process for.
#include "cuda_emulated.h"

#include <cstdio>
#include <string_view>

int main(int, char** words) {
  const std::string_view what = words[1];
  const unsigned lanes = what.ends_with("of-some") ? 0xFFFFU : 0xFFFF'FFFFU;
  unsigned bits = 0;
  int from = 0, beside = 0;
  pepnet::cuda_emulated::launch(
      {1}, {32}, 0,
      [&] {
        const int mine = static_cast<int>(threadIdx.x);
        if (what.starts_with("ballot")) bits = __ballot_sync(lanes, mine % 2 == 1);
        if (what.starts_with("shfl")) from = __shfl_sync(lanes, mine, what == "shfl-of-lane-32" ? 32 : 31);
        if (what.starts_with("xor")) {
          const int value = __shfl_xor_sync(lanes, mine, what == "xor-by-32" ? 32 : 1);
          if (mine == 6) beside = value;
        }
      },
      1, false);
  std::printf("%x %d %d\n", bits, from, beside);
  return 0;
}
