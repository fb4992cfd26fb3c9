// What the routers of all ranks chose, put together by sequence and position as one process routes:
// what the oracle replays, or is compared with (replay.h). No LibTorch.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/train/rank_tensors.h"

namespace tandem::exec {

// One routing of the one process: its microbatches are those of all data ranks, one after another.
struct RoutingPlace {
  int step = 0;
  int evaluation_batch = -1;  // of the evaluation after the step; -1: of the step
  int microbatch = 0, layer = 0;
  auto operator<=>(const RoutingPlace&) const = default;
};

struct RunChoices {
  std::map<RoutingPlace, std::vector<std::int32_t>> routed;  // [b, S, K]; -1 - expert: dropped
  std::string replica_difference;  // first place where ranks with the same tokens differ
};

// `evaluation`: null where the run has none. E-EXEC-034 where a token of a step is missing.
[[nodiscard]] Result<RunChoices> put_together(const Plan& plan, const Plan* evaluation,
                                              const TrainingConfig& config,
                                              const std::vector<RankTensors>& ranks);

}  // namespace tandem::exec
