// Chimera: two copies of the model in opposite directions, each filling the other's bubble.
//
//   D = p; microbatch i of a direction: unit u = i div (D/2), j = i mod (D/2)
//   slot F(s,i) = 2 D u + s + 2 j      slot B(s,i) = 2 D u + 2 D - 1 - s + 2 j
//   Rank r   the ops of (direction 0, stage r) and (direction 1, stage p-1-r) by slot
//   Laws     bubble, m <= D: (D-2) max(F,B) + (D-m) min(F,B); m = K D: (D-2)(K max(F,B) - (K-1)
//            min(F,B)); else simulate    live, K' = min(m, D): min(K', K'/2 + 1 + min(r, p-1-r))
//   Source   Li and Hoefler, SC 2021 (arXiv 2107.06925), direct concatenation; slots derived here;
//            schedules.md 2.13. Its forward doubling and backward halving are not implemented.
#include <algorithm>

#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> chimera(const PipelineShape& shape, const ScheduleOptions&) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  Result<Order> order = two_way_order("chimera", shape);
  if (!order) return order;
  const int half = p / 2;
  for (int r = 0; r < p; ++r) {
    std::vector<std::pair<int, Action>> by_slot;
    for (int dir = 0; dir < 2; ++dir)
      for (int i = 0; i < m / 2; ++i) {
        const int stage = dir == 0 ? r : p - 1 - r;
        const int unit = 2 * p * (i / half), turn = 2 * (i % half);
        Action f = forward(stage, i), b = backward(stage, i);
        f.dir = b.dir = static_cast<std::int8_t>(dir);
        by_slot.emplace_back(unit + stage + turn, f);
        by_slot.emplace_back(unit + 2 * p - 1 - stage + turn, b);
      }
    // No two ops share a slot.
    std::sort(by_slot.begin(), by_slot.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [slot, action] : by_slot)
      order->ranks[static_cast<std::size_t>(r)].push_back(action);
  }
  return order;
}

}  // namespace tandem
