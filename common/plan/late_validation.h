// Schedule.optimizer_barrier post_validated (schedules.md 1.5, models.md 8a): a step updates its
// parameters before the norm of the gradient is known, and the next step checks that. Each program
// has one op post_validate; the ops before it are its *cut*: forwards that run with parameters
// which may turn out wrong. Then the rank gives them up, settles the update (build.h,
// build_settling_plan) and begins the step again. That works because
//   clean       no op of the cut writes what lives for the run
//   consistent  no op of a cut takes what another program sends behind its own cut, and a
//               collective lies inside the cuts of all its members, or of none
// What was sent inside a cut and is taken behind another is under way when a step is given up:
// its receivers take it then, and throw it away.
// Pure functions, safe from any thread.
#pragma once

#include <vector>

#include "common/plan/plan.h"

namespace tandem {

// Steps of different ranks overlap: the plan has post_validate ops.
[[nodiscard]] bool validates_late(const Plan& plan);

// The post_validate op of each program; invalid where it has none.
[[nodiscard]] std::vector<OpId> validations(const Plan& plan);

// Receives of `program` behind its cut whose sends lie inside the sender's, in issue order.
[[nodiscard]] std::vector<OpId> under_way_at_cut(const Plan& plan, ProgramId program);

}  // namespace tandem
