// Looped breadth-first: all microbatches of a stage before the next stage of the rank, so that
// ZeRO-3 with residency window gathers the parameters of each stage once a direction.
//
//   Rank r   stages r, p+r, ... ascending: all F of a stage; then descending: all B of a stage
//   Option   backward=lifo|fifo (default lifo): the microbatches of a stage's backwards
//   Laws     bubble ((v-1) max(0, p-m) + p - 1)(F + B)    live on every rank: m v visits
//   Source   Lamy-Poirier, 2022 (arXiv 2211.05953); torch ScheduleLoopedBFS; schedules.md 2.5.
#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> bfs(const PipelineShape& shape, const ScheduleOptions& options) {
  const int p = shape.num_ranks, m = shape.num_microbatches, v = shape.stages_per_rank;
  const Result<bool> lifo = backward_lifo("bfs", options, true);
  if (!lifo) return lifo.error();
  Order order = empty_order(shape, loop_placement(p, v));
  for (int r = 0; r < p; ++r) {
    RankOrder& list = order.ranks[static_cast<std::size_t>(r)];
    for (int c = 0; c < v; ++c)
      for (int i = 0; i < m; ++i) list.push_back(forward(c * p + r, i));
    for (int c = v - 1; c >= 0; --c)
      for (int i = 0; i < m; ++i) list.push_back(backward(c * p + r, *lifo ? m - 1 - i : i));
  }
  return order;
}

}  // namespace tandem
