// AVX2 with FMA: float32, bf16 weights widened to float32, and int8 by way of 16-bit products.
#define PEPNET_VECTOR "dense/isa/vec_avx2.h"

#include "dense/generic/product.h"
#include "dense/generic/rows.h"
#include "dense/generic/steps.h"
#include "dense/isa/tables.h"

namespace pepnet {
namespace {

// Bytes are widened to 16 bits, even and odd values of k apart, and vpmaddwd adds two exact products in
// int32. vpmaddubsw would do with half the instructions, but saturates its sum of two at 16 bits.
struct WideByteStep : IntegerSums {
  using Weights = __m256i;
  using Value = __m256i;
  static constexpr std::size_t kParts = 2;
  static Weights weights(const char* line, std::size_t v, std::size_t part) {
    const auto quads = load_as<__m256i>(line + v * 32);
    return _mm256_srai_epi16(part == 0 ? _mm256_slli_epi16(quads, 8) : quads, 8);
  }
  static Value value(const char* a, std::size_t part) {
    const __m256i all = _mm256_set1_epi32(load_as<std::int32_t>(a));
    return part == 0 ? _mm256_and_si256(all, _mm256_set1_epi32(0x00FF00FF)) : _mm256_srli_epi16(all, 8);
  }
  static Acc accumulate(Acc acc, Value a, Weights w) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, w));
  }
};

}  // namespace

// Of 16 registers float32 takes 12 for sums. Three rows of the widened step take one panel: its mask is one
// register too many for two. The byte step is bound by its many instructions, not by latency: four rows are
// as good as six.
constinit const Ops kAvx2Fp32 = table(Isa::avx2, Precision::fp32, Activation::f32, "vfmadd on 8 float32",
                                      product_with<RegisterKernel<Float32Step, 6, 1, 4>>);
constinit const Ops kAvx2Bf16 =
    table(Isa::avx2, Precision::bf16, Activation::f32, "bf16 weights widened, vfmadd on 8 float32",
          product_with<RegisterKernel<WidenedStep, 6, 1, 4, 5>>);
constinit const Ops kAvx2Int8 =
    table(Isa::avx2, Precision::int8, Activation::u8, "vpmaddwd on bytes widened to 16 bits",
          product_with<RegisterKernel<WideByteStep, 4, 1, 4, 6>>);

}  // namespace pepnet
