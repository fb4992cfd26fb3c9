// Proves that all replicas of every parameter are equal: each rank writes a SHA-256 for each part
// of a tensor that it holds, all meet, and rank 0 compares ranks that hold the same part
// (`execute --check-replicas`). Where ep ranks read the same batches (Plan::replicates_data),
// copies on different ep ranks are equal to rounding only: there the ranks write their values too,
// and rank 0 holds the largest difference against kReplicaTolerance. No LibTorch.
#pragma once

#include <string>

#include "common/plan/plan.h"
#include "exec/checkpoint/save.h"

namespace tandem::exec {

// Of the largest value of a part, how far a copy on another ep rank may be (models.md 9).
inline constexpr double kReplicaTolerance = 1e-6;

// Writes RUN/ranks/K.replicas.json, and K.replicas.bin where values are compared. `step`: steps
// done. E-IO-010.
[[nodiscard]] Status write_replica_hashes(const Plan& plan, Rank rank, const BufferMemory& memory,
                                          int step, const std::string& run_dir);

// Rank 0, when every rank has written. E-EXEC-036 names the first tensor that differs, the step
// and the ranks by what they hold.
[[nodiscard]] Status compare_replicas(const Plan& plan, int step, const std::string& run_dir);

}  // namespace tandem::exec
