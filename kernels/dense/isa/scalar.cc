// The table for any CPU, and the plainest reading of every op.
#define PEPNET_VECTOR "dense/isa/vec_scalar.h"

#include "dense/generic/product.h"
#include "dense/generic/rows.h"
#include "dense/generic/steps.h"
#include "dense/isa/tables.h"

namespace pepnet {
namespace {

struct ByteStep : IntegerSums {
  struct Weights {
    std::int8_t k[4];
  };
  struct Value {
    std::uint8_t k[4];
  };
  static constexpr std::size_t kParts = 1;
  static Weights weights(const char* line, std::size_t v, std::size_t) {
    return load_as<Weights>(line + v * 4);
  }
  static Value value(const char* a, std::size_t) { return load_as<Value>(a); }
  static Acc accumulate(Acc acc, Value a, Weights w) {
    return acc + a.k[0] * w.k[0] + a.k[1] * w.k[1] + a.k[2] * w.k[2] + a.k[3] * w.k[3];
  }
};

}  // namespace

constinit const Ops kScalarFp32 =
    table(Isa::scalar, Precision::fp32, Activation::f32, "float32 multiply and add",
          product_with<RegisterKernel<Float32Step, 4, 1, 1>>);
constinit const Ops kScalarBf16 =
    table(Isa::scalar, Precision::bf16, Activation::f32, "bf16 weights widened to float32",
          product_with<RegisterKernel<WidenedStep, 4, 1, 1>>);
constinit const Ops kScalarInt8 =
    table(Isa::scalar, Precision::int8, Activation::u8, "int8 multiply, int32 add",
          product_with<RegisterKernel<ByteStep, 4, 1, 1>>);

}  // namespace pepnet
