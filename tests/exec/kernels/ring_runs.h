// Calls of the kernels of ring attention with sensible operands, for the walks over the whole
// catalogue.
#pragma once

#include "tests/exec/kernels/run.h"

namespace tandem::exec {

// At least one of every kind of is_ring(): the own block, a lower and a higher member's; with and
// without shared heads and a narrow v.
[[nodiscard]] std::vector<Run> ring_runs(const Types& t);

}  // namespace tandem::exec
