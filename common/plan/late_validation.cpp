#include "common/plan/late_validation.h"

#include <algorithm>
#include <set>
#include <utility>

namespace tandem {

bool validates_late(const Plan& plan) {
  return std::any_of(plan.ops.begin(), plan.ops.end(),
                     [](const Op& o) { return o.kind == OpKind::post_validate; });
}

std::vector<OpId> validations(const Plan& plan) {
  std::vector<OpId> out(plan.programs.size());
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const Program& program = plan.programs[p];
    for (std::uint32_t i = program.first_op; i < program.first_op + program.num_ops; ++i)
      if (plan.ops[i].kind == OpKind::post_validate && !out[p].valid()) out[p] = OpId{i};
  }
  return out;
}

std::vector<OpId> under_way_at_cut(const Plan& plan, ProgramId program) {
  const std::vector<OpId> cut = validations(plan);
  if (!cut[program.index()].valid()) return {};
  std::set<std::pair<std::int32_t, std::int32_t>> sent;  // (sender, match) inside a cut
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for (OpId id{plan.programs[p].first_op}; id < cut[p]; id = OpId{id.value + 1})
      if (plan.op(id).kind == OpKind::send)
        sent.emplace(static_cast<std::int32_t>(p), plan.op(id).match);
  std::vector<OpId> out;
  const Program& own = plan.programs[program.index()];
  const OpId end{std::int64_t{own.first_op} + own.num_ops};
  for (OpId id = cut[program.index()]; id < end; id = OpId{id.value + 1})
    if (const Op& o = plan.op(id); o.kind == OpKind::recv && sent.contains({o.peer, o.match}))
      out.push_back(id);
  return out;
}

}  // namespace tandem
