// Calls of the kernels of latent attention with sensible operands, for the walks over the whole
// catalogue.
#pragma once

#include "tests/exec/kernels/run.h"

namespace tandem::exec {

// At least one of every kind of is_mla(), and attention with a v narrower than q and k.
[[nodiscard]] std::vector<Run> mla_runs(const Types& t);

}  // namespace tandem::exec
