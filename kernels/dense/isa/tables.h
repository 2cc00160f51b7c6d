// The tables that ISA files define. Which of them exist depends on the compiler: see CMakeLists.txt.
#pragma once

#include "dense/ops.h"

namespace pepnet {

extern const Ops kScalarFp32, kScalarBf16, kScalarInt8;
extern const Ops kAvx2Fp32, kAvx2Bf16, kAvx2Int8;
extern const Ops kAvx512Fp32, kAvx512Bf16Widened;
extern const Ops kAvx512Bf16;
extern const Ops kAvx512Int8;
extern const Ops kAmxBf16, kAmxInt8;

}  // namespace pepnet
