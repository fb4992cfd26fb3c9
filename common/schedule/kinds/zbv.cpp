// ZB-V: two stages a rank on a V, so that the rank that starts a microbatch also ends it.
//
//   Rank r   a = r, b = 2p-1-r, n = max(m, 2p-1); every op takes its next microbatch
//     (2(p-r)-1) x F(a);  r x [F(b) F(a)];  (p-r) x [F(b) I(b) W(b)]
//     while fewer than n F(b): [F(a) if fewer than n], I(a) W(a) F(b) I(b) W(b)
//     r x [I(a) I(b)];  (p-r) x [I(a) W(a)];  remaining W(b);  remaining W(a)
//     without the ops of microbatches from m on
//   Laws     m >= 2p-1, W <= F <= I: span bubble 2(p-1)(I-W), makespan bubble (p-1) max(I, 2(I-W))
//            live 2p visits. Other costs have no short form: simulate
//   Source   Qi et al., 2024 (arXiv 2405.15362); torch ScheduleZBVZeroBubble; schedules.md 2.9.
#include <algorithm>

#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> zbv(const PipelineShape& shape, const ScheduleOptions&) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  Order order = empty_order(shape, v_placement(p, 2));
  for (int r = 0; r < p; ++r) {
    RankOrder& list = order.ranks[static_cast<std::size_t>(r)];
    Writer writer(list);
    const int a = r, b = 2 * p - 1 - r, n = std::max(m, 2 * p - 1);
    int f_a = 0, f_b = 0, w_a = 0, w_b = 0;
    const auto F = [&](int stage) {
      writer.put(ActionKind::F, stage);
      ++(stage == a ? f_a : f_b);
    };
    const auto I = [&](int stage) { writer.put(ActionKind::I, stage); };
    const auto W = [&](int stage) {
      writer.put(ActionKind::W, stage);
      ++(stage == a ? w_a : w_b);
    };
    for (int k = 0; k < 2 * (p - r) - 1; ++k) F(a);
    for (int k = 0; k < r; ++k) F(b), F(a);
    for (int k = 0; k < p - r; ++k) F(b), I(b), W(b);
    while (f_b < n) {
      if (f_a < n) F(a);
      I(a), W(a), F(b), I(b), W(b);
    }
    for (int k = 0; k < r; ++k) I(a), I(b);
    for (int k = 0; k < p - r; ++k) I(a), W(a);
    while (w_b < n) W(b);
    while (w_a < n) W(a);
    std::erase_if(list, [&](const Action& x) { return x.microbatch >= m; });
  }
  return order;
}

}  // namespace tandem
