// Initial values of parameters: a pure function of (seed, name, index in the full tensor), so a
// rank fills its own slice alone and every copy of a tensor is equal (models.md 2.1).
#pragma once

#include <functional>
#include <string>

#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/kernels/kernel.h"
#include "exec/train/shard.h"

namespace tandem::exec {

// value = mean + deviation * normal(seed, name, index), in fp64, cast afterwards.
struct InitRule {
  double mean = 0, deviation = 0;
};
[[nodiscard]] InitRule init_rule(const TrainingConfig& config, const std::string& name);

// Values [begin, end) of a block, counted row by row, as fp64.
void fill_block(const TrainingConfig& config, const Shard& shard, std::int64_t begin,
                std::int64_t end, const std::function<void(std::int64_t index, double value)>& put);

// Every parameter that the rank holds. Memory starts as zeros: padding stays 0.
void init_parameters(const Plan& plan, Rank rank, const TrainingConfig& config,
                     const std::function<View(BufferId)>& view);

}  // namespace tandem::exec
