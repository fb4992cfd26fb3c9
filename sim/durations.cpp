#include "sim/durations.h"

#include <cmath>

#include "common/plan/totals.h"
#include "sim/network/charges.h"

namespace tandem::sim {
namespace {

// Of a compute or copy op, on a device that is slower by a factor; 0 for other kinds.
Picoseconds work_ps(const Plan& plan, const ComputeCost& cost, const Op& op, double slow) {
  Picoseconds work = op.kind == OpKind::copy ? cost.copy(Plan::bytes_in(op)) : 0;
  for (const Call& c : plan.calls_of(op)) work += cost.work(c.kernel, call_accumulates(plan, c))[0];
  return slow == 1.0 ? work : static_cast<Picoseconds>(std::ceil(static_cast<double>(work) * slow));
}

}  // namespace

Result<ReplayDurations> durations_alone(const Plan& plan, const Cluster& cluster,
                                        const SimOptions& options) {
  const Result<ComputeCost> cost =
      ComputeCost::create(plan, cluster.spec.device, options.calibration);
  if (!cost) return cost.error();
  const Folding ranks = fold_ranks(plan, cluster, /*enabled=*/false);
  Charges charges(plan, cluster, ranks, options.fidelity, options.calibration);
  ReplayDurations out;
  std::vector<std::vector<int>> charge_of;  // [rank][op of its program]; -1: no communication
  for (std::size_t r = 0; r < ranks.representative.size(); ++r) {
    const Rank rank = ranks.representative[r];
    const ProgramId program = plan.program_of(rank);
    const double slow = cluster.slow_factor(rank);
    std::vector<Picoseconds>& own = out.by_rank.emplace_back();
    std::vector<int>& charge = charge_of.emplace_back();
    for (const Op& op : plan.ops_of(program)) {
      own.push_back(work_ps(plan, *cost, op, slow));
      charge.push_back(-1);
      if (!is_communication(op.kind)) continue;
      const int here = program.value;
      const int from = op.kind == OpKind::send ? here : op.kind == OpKind::recv ? op.peer : -1;
      const int to = op.kind == OpKind::send ? op.peer : op.kind == OpKind::recv ? here : -1;
      charge.back() = charges.add(ranks.group_of[r][op.comm.index()], op, from, to);
    }
  }
  charges.prepare();
  for (std::size_t r = 0; r < charge_of.size(); ++r)
    for (std::size_t i = 0; i < charge_of[r].size(); ++i) {
      if (charge_of[r][i] < 0) continue;
      const Charge& c = charges.charge(charge_of[r][i]);
      out.by_rank[r][i] = cluster.local ? c.delay + c.cpu : c.fixed;
    }
  return out;
}

}  // namespace tandem::sim
