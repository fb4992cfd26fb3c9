#include "common/plan/late_validation.h"

#include <algorithm>
#include <map>

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
  // (sender, match) of what is sent inside a cut.
  std::map<std::pair<std::int32_t, std::int32_t>, bool> sent;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for (OpId id{plan.programs[p].first_op}; cut[p].valid() && id < cut[p]; id = OpId{id.value + 1})
      if (plan.op(id).kind == OpKind::send)
        sent[{static_cast<std::int32_t>(p), plan.op(id).match}] = true;
  std::vector<OpId> out;
  const Program& own = plan.programs[program.index()];
  const OpId begin = cut[program.index()];
  for (std::uint32_t i = begin.valid() ? static_cast<std::uint32_t>(begin.value) : UINT32_MAX;
       i < own.first_op + own.num_ops; ++i)
    if (const Op& o = plan.ops[i]; o.kind == OpKind::recv && sent.contains({o.peer, o.match}))
      out.push_back(OpId{i});
  return out;
}

}  // namespace tandem
