// Instruction sets that kernels are written for, and numeric formats that weights are packed in.
//
// Files compiled for an instruction set include this: nothing here may become a function that the linker
// shares.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pepnet {

// Ascending: each one's CPUs can also run those before it.
enum class Isa : std::uint8_t { scalar, avx2, avx512, amx };

enum class Precision : std::uint8_t { fp32, bf16, int8 };
inline constexpr Precision kPrecisions[] = {Precision::fp32, Precision::bf16, Precision::int8};

const char* name_of(Isa isa);
const char* name_of(Precision precision);

}  // namespace pepnet
