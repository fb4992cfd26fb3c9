// Proves that all replicas of every parameter are equal: each rank writes a SHA-256 for each part
// of a tensor that it holds, all meet, and rank 0 compares ranks that hold the same part
// (`execute --check-replicas`). No LibTorch.
#pragma once

#include <string>

#include "common/plan/plan.h"
#include "exec/checkpoint/save.h"

namespace tandem::exec {

// Writes RUN/ranks/K.replicas.json. `step`: steps done. E-IO-010.
[[nodiscard]] Status write_replica_hashes(const Plan& plan, Rank rank, const BufferMemory& memory,
                                          int step, const std::string& run_dir);

// Rank 0, when every rank has written. E-EXEC-037 names the first tensor that differs, the step
// and the ranks by what they hold.
[[nodiscard]] Status compare_replicas(const Plan& plan, int step, const std::string& run_dir);

}  // namespace tandem::exec
