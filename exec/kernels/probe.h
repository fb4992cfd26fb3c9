// What the operands of a forward kernel say of attention, the residual stream and routers: behind
// the kernel, which it does not change. Costs about what the kernel does.
//   attention_fwd                   largest logit, entropy of each row of probabilities: not to be
//                                   asked where it does one block of several
//   layernorm_fwd, rmsnorm_fwd      squares of the input: the caller asks the first norm of a layer
//   route_fwd                       entropy of each token's scores
#pragma once

#include "exec/kernels/kernel.h"
#include "exec/train/activations.h"

namespace tandem::exec {

// Adds to `into`, which outlives it. Empty where the kernel says nothing.
[[nodiscard]] Prepared bind_probe(const KernelCall& call, ActivationSums& into);

}  // namespace tandem::exec
