// Views of a plan for people and scripts: the order as a picture, groups of ranks, statistics, one
// op a CSV row. All computed from the plan itself, so they also work for a plan file. Pure.
#pragma once

#include <string>

#include "common/plan/plan.h"
#include "common/plan/verify/verify.h"
#include "common/schedule/order.h"
#include "tools/context.h"

namespace tandem::tools {

// L1 as the plan runs it: the first op of each (phase, stage, microbatch) of a program, in issue
// order, forward and backward only.
[[nodiscard]] Order order_of(const Plan& plan);

// Rank groups: of each communicator, and of the axes tp, dp and pp of models.md 3.1 whether or not
// the plan communicates over them. "tp" -> [[0, 1], [2, 3]]. Ordered as in the plan, axes first.
[[nodiscard]] Json groups_json(const Plan& plan);
[[nodiscard]] std::string groups_text(const Plan& plan);  // at most 32 groups a row

// Bytes that a rank of each program hands over in a step, summed over the programs: a send counts
// once, a receive does not.
[[nodiscard]] Json bytes_by_communicator(const Plan& plan);

// Ops by kind and phase, kernels by name, buffers and persistent bytes by class, per program.
[[nodiscard]] Json stats_json(const Plan& plan, const Verification& verification);
[[nodiscard]] std::string stats_text(const Plan& plan, const Verification& verification);

// A header line, then a row an op in the order of their ids.
[[nodiscard]] std::string plan_csv(const Plan& plan);

}  // namespace tandem::tools
