// AVX-512 with VNNI: vpdpbusd multiplies four unsigned by four signed bytes and adds them in int32, exactly.
#define PEPNET_VECTOR "dense/isa/vec_avx512.h"

#include "dense/generic/product.h"
#include "dense/generic/rows.h"
#include "dense/generic/steps.h"
#include "dense/isa/tables.h"

namespace pepnet {
namespace {

struct QuadStep : IntegerSums {
  using Weights = __m512i;
  using Value = __m512i;
  static constexpr std::size_t kParts = 1;
  static Weights weights(const char* line, std::size_t, std::size_t) { return _mm512_loadu_si512(line); }
  static Value value(const char* a, std::size_t) { return _mm512_set1_epi32(load_as<std::int32_t>(a)); }
  static Acc accumulate(Acc acc, Value a, Weights w) { return _mm512_dpbusd_epi32(acc, a, w); }
};

}  // namespace

constinit const Ops kAvx512Int8 = table(Isa::avx512, Precision::int8, Activation::u8, "vpdpbusd",
                                        product_with<RegisterKernel<QuadStep, 6, 4, 8>>);

}  // namespace pepnet
