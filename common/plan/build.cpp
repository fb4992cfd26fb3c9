#include "common/plan/build.h"

#include <algorithm>

#include "common/plan/lower/draft.h"
#include "common/plan/print.h"
#include "common/scenario/order_file.h"
#include "common/schedule/registry.h"
#include "common/schedule/text.h"

namespace tandem {
namespace {

using lower::Draft;
using lower::PlanUse;

// In order. `unshard` leaves the order as it is but with residency window. `recompute` and `zero`
// have no form of their own: what a visit computes again, gathers and scatters comes with
// `segments` (lower/visit_recompute.cpp, visit_zero.cpp), gathers and scatters of a step with
// `gradients` and `optimizer`.
const std::vector<std::string> kSteps = {
    "stages",    "order", "backward",  "unshard",   "reduce",  "p2p",    "segments",
    "recompute", "zero",  "gradients", "optimizer", "streams", "buffers"};

bool reaches(const std::string& last, const char* step) {
  const auto at = [](std::string_view s) { return std::find(kSteps.begin(), kSteps.end(), s); };
  return at(last) >= at(step);
}

std::string placement(const Order& order) {
  std::string out;
  for (std::size_t s = 0; s < order.stage_rank.size(); ++s)
    out += "stage " + std::to_string(s) + " on rank " + std::to_string(order.stage_rank[s]) + "\n";
  return out;
}

// An evaluation runs the forwards of the training order: what is left out, no forward waits for.
Order forwards_of(const Order& order) {
  Order out = order;
  for (RankOrder& list : out.ranks)
    std::erase_if(list, [](const Action& a) { return a.kind != ActionKind::F; });
  for (RankOrder& list : out.ranks)
    for (Action& a : list) a.fused = false;
  return out;
}

// L1 up to `last`.
Result<Order> lower_order(const Scenario& scenario, const std::string& last, bool evaluation) {
  Result<Order> order = build_order(scenario);
  if (!order) return order;
  for (RankOrder& list : order->ranks)
    std::erase_if(list, [](const Action& a) { return a.kind == ActionKind::idle; });
  if (evaluation) order = forwards_of(*order);
  if (reaches(last, "backward"))
    order = lower::backward(*order, scenario.schedule.merge,
                            scenario.schedule.first_stage == FirstStage::keep);
  if (reaches(last, "unshard") && scenario.parallel.keeps_window())
    order = lower::unshard(*order, scenario.parallel.gather_window);
  if (!reaches(last, "reduce")) return order;
  Order reduced = lower::reduce(*order);
  if (!reaches(last, "p2p")) return reduced;
  return lower::p2p(reduced, scenario.schedule.receive);
}

Result<Plan> lower_plan(const Scenario& scenario, const std::string& last, PlanUse use) {
  Result<Order> order = lower_order(scenario, last, use == PlanUse::evaluation);
  if (!order) return order.error();
  Draft draft(scenario, use);
  draft.order = std::move(*order);
  lower::stages(draft);
  lower::segments(draft);
  if (reaches(last, "gradients") && use == PlanUse::training) lower::gradients(draft);
  if (reaches(last, "optimizer")) lower::optimizer(draft);
  if (reaches(last, "streams")) lower::streams(draft);
  if (reaches(last, "buffers")) lower::buffers(draft);
  return lower::finish(std::move(draft));
}

}  // namespace

Result<Order> build_order(const Scenario& s) {
  if (const auto order = kept_order(s.schedule)) return *order;
  const PipelineShape shape{s.parallel.pp, s.num_microbatches(), s.schedule.stages_per_rank};
  return make_order(s.schedule.kind, shape, s.schedule.options);
}

Result<Order> computing_order(const Scenario& scenario) {
  return lower_order(scenario, "backward", /*evaluation=*/false);
}

Result<Plan> build_plan(const Scenario& scenario) {
  return lower_plan(scenario, kSteps.back(), PlanUse::training);
}
Result<Plan> build_evaluation_plan(const Scenario& scenario) {
  return lower_plan(scenario, kSteps.back(), PlanUse::evaluation);
}
Result<Plan> build_settling_plan(const Scenario& scenario) {
  return lower_plan(scenario, kSteps.back(), PlanUse::settling);
}

const std::vector<std::string>& lowering_steps() { return kSteps; }

Result<std::string> dump_after(const Scenario& scenario, const std::string& step, bool evaluation) {
  const auto at = std::find(kSteps.begin(), kSteps.end(), step);
  if (at == kSteps.end()) {
    std::string names;
    for (const std::string& s : kSteps) names += (names.empty() ? "" : ", ") + s;
    return make_error(Failure::usage, "E-CLI-004", "unknown lowering step", step, "one of " + names,
                      "write --dump-after segments");
  }
  if (!reaches(step, "segments")) {
    Result<Order> order = lower_order(scenario, step, evaluation);
    if (!order) return order.error();
    return step == "stages" ? placement(*order) : to_text(*order);
  }
  Result<Plan> plan =
      lower_plan(scenario, step, evaluation ? PlanUse::evaluation : PlanUse::training);
  if (!plan) return plan.error();
  return print(*plan);
}

}  // namespace tandem
