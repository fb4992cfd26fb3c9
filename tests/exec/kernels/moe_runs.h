// Calls of the kernels for experts with sensible operands, for the walks over the whole catalogue.
#pragma once

#include "tests/exec/kernels/run.h"

namespace tandem::exec {

// At least one of every kind from kFirstMoeKernel on; of routing and combining also the other
// scores, so that each way through their code is held to the declared scratch.
[[nodiscard]] std::vector<Run> moe_runs(const Types& t);

// choice[n,K] that gives every expert as many rows: (token * K + slot) mod E.
[[nodiscard]] Tensor balanced_choice(std::int64_t tokens, std::int64_t top_k, std::int64_t experts);

}  // namespace tandem::exec
