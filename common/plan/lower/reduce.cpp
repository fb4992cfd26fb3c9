// Step `reduce`: REDUCE_GRAD of a stage right behind the backward that completes its gradients
// (schedules.md 4.3).
#include "common/plan/lower/draft.h"

namespace tandem::lower {

Order reduce(const Order& order) {
  Order out = order;
  const std::size_t stages = order.stage_rank.size();
  for (RankOrder& list : out.ranks) {
    // Backwards that are left, by direction and stage.
    std::vector<int> left(stages * static_cast<std::size_t>(order.num_dirs),
                          order.num_microbatches * order.num_slices);
    RankOrder next;
    std::vector<Action> complete;  // of a cell: behind its last part
    for (std::size_t i = 0; i < list.size(); ++i) {
      const Action& a = list[i];
      next.push_back(a);
      if (is_weight(a.kind) &&
          --left[static_cast<std::size_t>(a.dir) * stages + static_cast<std::size_t>(a.stage)] ==
              0) {
        Action done{ActionKind::reduce_grad, a.stage, -1};
        done.dir = a.dir;
        complete.push_back(done);
      }
      if (i + 1 < list.size() && list[i + 1].fused) continue;
      next.insert(next.end(), complete.begin(), complete.end());
      complete.clear();
    }
    list = std::move(next);
  }
  return out;
}

}  // namespace tandem::lower
