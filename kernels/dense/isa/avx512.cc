// AVX-512 F, BW, VL, DQ: float32, and bf16 weights widened to float32.
#define PEPNET_VECTOR "dense/isa/vec_avx512.h"

#include "dense/generic/product.h"
#include "dense/generic/rows.h"
#include "dense/generic/steps.h"
#include "dense/isa/tables.h"

namespace pepnet {

constinit const Ops kAvx512Fp32 = table(Isa::avx512, Precision::fp32, Activation::f32, "vfmadd on 16 float32",
                                        product_with<RegisterKernel<Float32Step, 6, 4, 8>>);
constinit const Ops kAvx512Bf16Widened =
    table(Isa::avx512, Precision::bf16, Activation::f32, "bf16 weights widened, vfmadd on 16 float32",
          product_with<RegisterKernel<WidenedStep, 6, 4, 8>>);

}  // namespace pepnet
