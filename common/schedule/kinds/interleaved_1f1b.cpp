// Interleaved 1F1B (virtual pipeline): v stages a rank, so the bubble of 1F1B shrinks v times.
//
//   Turns     groups of g microbatches go through the rank's chunks one after the other
//     f[x] = F(c p + r, i)    b[x] = B((v-1-c) p + r, i)    (i, c) = turn x
//   Warm-up   w = min(2(p-1-r) + (v-1) g + e, m v), then f and b alternate
//   Options   group       g; auto: m below p: m, else m div (m div p)
//             overlap     e = 1: F and B of a steady pair do not need each other
//             fuse        such a pair is one cell (F;B)OVERLAP_F_B; needs overlap
//   Laws      bubble (p-1)(F + B) of a visit, 1/v of 1F1B's for the same model
//             live on rank r: min((v-1) g + 2(p-1-r) + 1 + e, m v) visits
//   Source    Narayanan et al., 2021 (arXiv 2104.04473); torch ScheduleInterleaved1F1B; combined
//             1F1B of Megatron-LM for overlap; schedules.md 2.4.
#include <algorithm>

#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> interleaved_1f1b(const PipelineShape& shape, const ScheduleOptions& options) {
  const std::string kind = "interleaved_1f1b";
  const int p = shape.num_ranks, m = shape.num_microbatches, v = shape.stages_per_rank;
  if (v == 1 && p > 1)
    return schedule_error(kind, "v=1; use 1f1b or eager_1f1b", "v=1", "v >= 2",
                          "write schedule: 1f1b, or raise schedule.stages_per_rank");
  const Result<int> g = group_size(kind, shape, options);
  if (!g) return g.error();
  const Result<bool> overlap = bool_option(kind, options, "overlap", false);
  if (!overlap) return overlap.error();
  const Result<bool> fuse = bool_option(kind, options, "fuse", false);
  if (!fuse) return fuse.error();
  if (*fuse && !*overlap)
    return schedule_error(kind,
                          "fuse=true without overlap=true; the last rank would pair forward and "
                          "backward of one microbatch and wait for itself; add overlap=true",
                          "overlap=false", "overlap=true", "write schedule.overlap: true");
  Order order = empty_order(shape, loop_placement(p, v));
  const std::vector<Turn> all = turns(m, v, *g);
  for (int r = 0; r < p; ++r) {
    std::vector<Action> f, b;
    for (const Turn& t : all) {
      f.push_back(forward(t.chunk * p + r, t.microbatch));
      b.push_back(backward((v - 1 - t.chunk) * p + r, t.microbatch));
    }
    const int w = std::min(2 * (p - 1 - r) + (v - 1) * *g + (*overlap ? 1 : 0), m * v);
    if (*fuse)  // the b that stands behind its f: all but the last w
      for (int x = 0; x < m * v - w; ++x) b[static_cast<std::size_t>(x)].fused = true;
    alternate(order.ranks[static_cast<std::size_t>(r)], f, b, w);
  }
  return order;
}

}  // namespace tandem
