// Optimizer_barrier post_validated: where each program checks the update of the step before
// (common/plan/late_validation.h). As late as can be, so that no rank stands still for ranks that
// have just begun: right before its first backward, and where that would take what another rank
// sends only behind its own check, before that.
#include <algorithm>
#include <map>

#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

bool is_backward_phase(Phase p) {
  return p == Phase::I || p == Phase::W || p == Phase::B || p == Phase::R;
}

// By program: so many of its first ops make up the cut.
std::vector<std::size_t> cuts_of(const Draft& d) {
  struct End {
    std::size_t program, position;
  };
  std::map<std::int32_t, std::vector<End>> ends;  // of what has a match id
  std::vector<std::size_t> cut;
  for (std::size_t p = 0; p < d.programs.size(); ++p) {
    const std::vector<Op>& ops = d.programs[p];
    std::size_t first = 0;
    while (first < ops.size() && !is_backward_phase(ops[first].phase) &&
           ops[first].phase != Phase::O)
      ++first;
    cut.push_back(first);
    for (std::size_t i = 0; i < ops.size(); ++i)
      if (ops[i].match >= 0) ends[ops[i].match].push_back({p, i});
  }
  const auto inside = [&](const End& e) { return e.position < cut[e.program]; };
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t p = 0; p < cut.size(); ++p) {  // no group is torn
      const std::vector<Op>& ops = d.programs[p];
      while (cut[p] > 0 && cut[p] < ops.size() && ops[cut[p]].group >= 0 &&
             ops[cut[p] - 1].group == ops[cut[p]].group)
        --cut[p];
    }
    for (const auto& [match, list] : ends) {
      if (std::none_of(list.begin(), list.end(), inside) ||
          std::all_of(list.begin(), list.end(), inside))
        continue;
      for (const End& e : list)
        // A message may have been sent inside and be taken behind; nothing else may lie astride.
        if (inside(e) && d.programs[e.program][e.position].kind != OpKind::send) {
          cut[e.program] = e.position;
          changed = true;
        }
    }
  }
  return cut;
}

}  // namespace

void validate_late(Draft& d, std::vector<ValidationOps> added) {
  const std::vector<std::size_t> cut = cuts_of(d);
  for (std::size_t p = 0; p < d.programs.size(); ++p) {
    std::vector<Op>& ops = d.programs[p];
    ops.insert(ops.begin() + static_cast<std::ptrdiff_t>(cut[p]), added[p].check);
    ops.insert(ops.begin(), added[p].first.begin(), added[p].first.end());
  }
}

}  // namespace tandem::lower
