// AVX-512 with BF16: vdpbf16ps multiplies pairs of bf16 and adds them in float32, twice the rate of float32.
#define PEPNET_VECTOR "dense/isa/vec_avx512.h"

#include "dense/generic/product.h"
#include "dense/generic/rows.h"
#include "dense/generic/steps.h"
#include "dense/isa/tables.h"

namespace pepnet {
namespace {

struct PairStep : FloatSums {
  using Weights = __m512i;
  using Value = __m512i;
  static constexpr std::size_t kBytes = 4;
  static constexpr std::size_t kParts = 1;
  static Weights weights(const char* line, std::size_t, std::size_t) { return _mm512_loadu_si512(line); }
  static Value value(const char* a, std::size_t) { return _mm512_set1_epi32(load_as<std::int32_t>(a)); }
  static Acc accumulate(Acc acc, Value a, Weights w) {
#ifdef __clang__
    // clang 16 crashes on the unrolled tile when this is its intrinsic.
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(w));
    return acc;
#else
    return _mm512_dpbf16_ps(acc, __builtin_bit_cast(__m512bh, a), __builtin_bit_cast(__m512bh, w));
#endif
  }
};

}  // namespace

constinit const Ops kAvx512Bf16 = table(Isa::avx512, Precision::bf16, Activation::bf16, "vdpbf16ps",
                                        product_with<RegisterKernel<PairStep, 6, 4, 8>>);

}  // namespace pepnet
