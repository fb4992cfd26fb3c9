// Saving a checkpoint between two steps: every rank writes a shard of what it owns, all meet, and
// rank 0 puts what they say together, proves that every element is there once, writes the manifest
// and renames the folder (folder.h). No LibTorch.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/checkpoint/held.h"
#include "exec/checkpoint/manifest.h"

namespace tandem::exec {

// Memory of a buffer of the plan, at its first element.
using BufferMemory = std::function<std::byte*(BufferId)>;

// Writes DIR/step-N.partial/rank-K.shard and RUN/ranks/K.shard.json. E-IO-010, E-IO-011.
[[nodiscard]] Status save_shard(const Plan& plan, Rank rank, const BufferMemory& memory,
                                const std::string& dir, int step, const std::string& run_dir);

// Rank 0, when every rank has saved its shard. E-CKPT-011 where they do not make the model.
[[nodiscard]] Status commit_checkpoint(const Plan& plan, const std::string& plan_id,
                                       const TrainingConfig& config, const TrainingState& state,
                                       const std::string& run_dir);

}  // namespace tandem::exec
