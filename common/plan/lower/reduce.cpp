// Step `reduce`: REDUCE_GRAD of a stage right behind the backward that completes its gradients
// (schedules.md 4.3).
#include "common/plan/lower/draft.h"

namespace tandem::lower {

Order reduce(const Order& order) {
  Order out = order;
  for (RankOrder& list : out.ranks) {
    std::vector<int> left(order.stage_rank.size(), order.num_microbatches);
    RankOrder next;
    for (const Action& a : list) {
      next.push_back(a);
      const bool adds = a.kind == ActionKind::B || a.kind == ActionKind::W;
      if (adds && --left[static_cast<std::size_t>(a.stage)] == 0)
        next.push_back({ActionKind::reduce_grad, a.stage, -1});
    }
    list = std::move(next);
  }
  return out;
}

}  // namespace tandem::lower
