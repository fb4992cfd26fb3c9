// ZB-H2: a warm-up of 2(p-r)-1 forwards, so that with a post-validated optimizer no bubble is left.
//
//   Rank r   2(p-r)-1 x F; then I, from the 2r-th on W of the oldest I, F while there are; rest of
//   W Laws     m >= 2p-1: span bubble (p-1) max(0, I-F, F+I-2W), makespan bubble (p-1) max(F, I-F,
//            F+I-2W)    live F until W: min(2p-1, m), until I: 2(p-r)-1
//   Source   shape of ZB-2p, Qi et al., ICLR 2024; schedules.md 2.8.
#include <algorithm>

#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> zb_h2(const PipelineShape& shape, const ScheduleOptions&) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  Order order = linear_order(shape);
  for (int r = 0; r < p; ++r) {
    RankOrder& list = order.ranks[static_cast<std::size_t>(r)];
    Writer writer(list);
    const int w = std::min(2 * (p - r) - 1, m);
    int f_left = m - w, w_left = m;
    for (int x = 0; x < w; ++x) writer.put(ActionKind::F, r);
    for (int x = 0; x < m; ++x) {
      writer.put(ActionKind::I, r);
      // W stands between I and F: else the peak would be 2p.
      if (x >= 2 * r) writer.put(ActionKind::W, r), --w_left;
      if (f_left > 0) writer.put(ActionKind::F, r), --f_left;
    }
    while (w_left-- > 0) writer.put(ActionKind::W, r);
  }
  return order;
}

}  // namespace tandem
