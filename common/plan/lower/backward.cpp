// Step `backward`: I and W of an order merged, and those of the first stage
// (schedules.md 4.1). None of it changes the order of microbatches in which a stage adds its weight
// gradients.
#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

RankOrder merged(const RankOrder& list) {
  RankOrder out;
  for (const Action& a : list) {
    const bool joins = a.kind == ActionKind::W && !a.fused && !out.empty() && !out.back().fused &&
                       out.back().kind == ActionKind::I && same_visit(out.back(), a);
    if (joins)
      out.back().kind = ActionKind::B;
    else
      out.push_back(a);
  }
  return out;
}

// Nothing reads the result of I of the first stage.
RankOrder with_whole_first_stage(const RankOrder& list) {
  RankOrder out;
  bool lost_head = false;  // of a cell: its next part becomes the first
  for (Action a : list) {
    if (!a.fused) lost_head = false;
    if (a.stage == 0 && a.kind == ActionKind::I) {
      lost_head = lost_head || !a.fused;
      continue;
    }
    if (lost_head) a.fused = lost_head = false;
    if (a.stage == 0 && a.kind == ActionKind::W) a.kind = ActionKind::B;
    out.push_back(a);
  }
  return out;
}

}  // namespace

Order backward(const Order& order, bool merge, bool keep_first_stage) {
  Order out = order;
  for (RankOrder& list : out.ranks) {
    if (merge) list = merged(list);
    if (!keep_first_stage) list = with_whole_first_stage(list);
  }
  return out;
}

}  // namespace tandem::lower
