// Eager 1F1B: 1F1B with twice the distance between ranks, which leaves room to hide messages.
//
//   p = 3, m = 4, F = B = 1 slot, free communication
//     rank 0   F0 F1 F2 F3 .. B0 B1 B2 .. B3      warm-up min(2(p-1-r), m)
//     rank 1   .. F0 F1 F2 B0 F3 B1 .. B2 B3
//   Laws    makespan (m + p - 1)(F + B)    live on rank r: min(2(p - r) - 1, m)
//   Source  Zhuang et al., Alpa "overlap friendly", 2022; JaxPP Eager1F1B; schedules.md 2.3.
#include <algorithm>

#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> eager_1f1b(const PipelineShape& shape, const ScheduleOptions&) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  Order order = linear_order(shape);
  for (int r = 0; r < p; ++r) {
    std::vector<Action> f, b;
    for (int i = 0; i < m; ++i) f.push_back(forward(r, i)), b.push_back(backward(r, i));
    alternate(order.ranks[static_cast<std::size_t>(r)], f, b, std::min(2 * (p - 1 - r), m));
  }
  return order;
}

}  // namespace tandem
