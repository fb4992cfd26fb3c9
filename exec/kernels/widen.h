// bf16 on a CPU: a kernel of fp32 between two casts. Operands in bf16 are widened into a block of
// the calling thread, the fp32 code runs there, and what it wrote is rounded back. So products of
// bf16 values are exact, sums are made in fp32, and each result is rounded once: mixed precision as
// models.md 2.1 defines it. The weight gradient, whose result is fp32, is not rounded at all.
//   Scratch: 4 bytes for each element of an operand in bf16; operands that share a buffer (in
//   place) share it. It is held by the thread, for the largest call so far.
#pragma once

#include "exec/kernels/kernel.h"

namespace tandem::exec {

// `call` with types {bf16, f32}, checked against its signature. The closure belongs to the thread
// that first runs it, as the plan's compute stream does.
[[nodiscard]] Prepared bind_widened(const KernelCall& call);

}  // namespace tandem::exec
