// GPipe: all forwards, then all backwards. Simple, and every microbatch is alive at once.
//
//   p = 3, m = 3, F = B = 1 slot, free communication
//     rank 0   F0 F1 F2 .. .. .. .. B0 B1 B2
//     rank 1   .. F0 F1 F2 .. .. B0 B1 B2 ..
//     rank 2   .. .. F0 F1 F2 B0 B1 B2 .. ..
//   Laws    makespan (m + p - 1)(F + B)    idle, each rank (p - 1)(F + B)    live on rank r: m
//   Option  backward=fifo|lifo (default fifo, as torch); lifo reverses the backwards.
//   Source  Huang et al., GPipe, NeurIPS 2019; schedules.md 2.1.
#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> gpipe(const PipelineShape& shape, const ScheduleOptions& options) {
  const Result<bool> lifo = backward_lifo("gpipe", options, false);
  if (!lifo) return lifo.error();
  const int m = shape.num_microbatches;
  Order order = linear_order(shape);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    RankOrder& list = order.ranks[static_cast<std::size_t>(rank)];
    for (int i = 0; i < m; ++i) list.push_back(forward(rank, i));
    for (int i = 0; i < m; ++i) list.push_back(backward(rank, *lifo ? m - 1 - i : i));
  }
  return order;
}

}  // namespace tandem
