// Scenario -> plan: the lowering steps of lower/, in order (docs/plan_reference.md, "Lowering").
// Pure: the same scenario gives the same plan, byte by byte. Verification: verify/verify.h.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/scenario/scenario.h"
#include "common/schedule/order.h"

namespace tandem {

// The compute order alone (L1): what the schedule kind generates for the scenario.
[[nodiscard]] Result<Order> build_order(const Scenario& scenario);

// The order that is lowered: that of the kind, with its backwards cut or merged as the scenario
// says (schedule.merge, first_stage); no idle cells, no messages.
[[nodiscard]] Result<Order> computing_order(const Scenario& scenario);

// The whole plan. The scenario must have passed validation (common/scenario/validate.h).
[[nodiscard]] Result<Plan> build_plan(const Scenario& scenario);

// The plan of one global batch of an evaluation: the forward visits of the same order on the same
// mesh, their loss, and its sum. Its parameters are those of build_plan(), buffer by buffer, by
// class and name; it has no gradients and no optimizer state but the bias of sigmoid routers,
// writes nothing that lives for the run, and keeps no activation longer than the next op needs it.
[[nodiscard]] Result<Plan> build_evaluation_plan(const Scenario& scenario);

// Optimizer_barrier post_validated: the plan that makes the last update once more, from the copy
// that the step has left, with the true gradient norm; and reports that step's metrics. It runs
// where a roll-back asks for it, and behind the last step (docs/decisions.md D-042). Its buffers
// are those of build_plan(), by class and name.
[[nodiscard]] Result<Plan> build_settling_plan(const Scenario& scenario);

// `tandem plan --dump-after STEP`: names of the steps in order, and the text of the form that a
// step leaves behind: L1 text up to p2p, plan text from segments on. `evaluation`: of that plan.
[[nodiscard]] const std::vector<std::string>& lowering_steps();
[[nodiscard]] Result<std::string> dump_after(const Scenario& scenario, const std::string& step,
                                             bool evaluation = false);

}  // namespace tandem
