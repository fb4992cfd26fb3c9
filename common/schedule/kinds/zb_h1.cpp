// ZB-H1 and its interleaved form: the backward is split, W fills what waiting for I leaves.
//
//   Turns     as interleaved 1F1B; zb_h1 is v = 1, g = p
//   Warm-up   w = min((v-1) g + (p-1-r), m v): one forward a hop, not two
//   Then      f[w+x], I(b[x]), and from x = r on the W of the oldest I; the rest of W at the end
//   Laws      bubble (p-1) max(F, I, F+I-W) (the published (p-1)(F+I-W) needs W <= min(F, I))
//             live on rank r, F until W: min((v-1) g + p, m v) visits; until I: p-1-r fewer + 1
//   Source    Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024; torch "ZB1P"; schedules.md
//             2.6, 2.7.
#include <algorithm>

#include "common/schedule/kinds/kinds.h"

namespace tandem {
namespace {

Order split_order(const PipelineShape& shape, int v, int g) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  Order order = empty_order(shape, loop_placement(p, v));
  const std::vector<Turn> all = turns(m, v, g);
  const int n = m * v;
  for (int r = 0; r < p; ++r) {
    RankOrder& list = order.ranks[static_cast<std::size_t>(r)];
    const auto f = [&](int x) {
      const Turn& t = all[static_cast<std::size_t>(x)];
      list.push_back(forward(t.chunk * p + r, t.microbatch));
    };
    const auto back = [&](ActionKind kind, int x) {
      const Turn& t = all[static_cast<std::size_t>(x)];
      list.push_back({kind, (v - 1 - t.chunk) * p + r, t.microbatch});
    };
    const int w = std::min((v - 1) * g + (p - 1 - r), n);
    for (int x = 0; x < w; ++x) f(x);
    int next_w = 0;
    for (int x = 0; x < n; ++x) {
      if (w + x < n) f(w + x);
      back(ActionKind::I, x);
      if (x >= r) back(ActionKind::W, next_w++);
    }
    while (next_w < n) back(ActionKind::W, next_w++);
  }
  return order;
}

}  // namespace

Result<Order> zb_h1(const PipelineShape& shape, const ScheduleOptions&) {
  if (shape.num_microbatches < shape.num_ranks)
    return too_few_microbatches("zb_h1", shape.num_microbatches, "p", shape.num_ranks,
                                "its warm-up holds p microbatches");
  return split_order(shape, 1, shape.num_ranks);
}

Result<Order> interleaved_zb(const PipelineShape& shape, const ScheduleOptions& options) {
  const std::string kind = "interleaved_zb";
  if (shape.stages_per_rank == 1)
    return schedule_error(kind, "v=1; use zb_h1", "v=1", "v >= 2",
                          "write schedule: zb_h1, or raise schedule.stages_per_rank");
  if (shape.num_microbatches < shape.num_ranks)
    return too_few_microbatches(kind, shape.num_microbatches, "p", shape.num_ranks,
                                "its warm-up holds p microbatches");
  const Result<int> g = group_size(kind, shape, options);
  if (!g) return g.error();
  return split_order(shape, shape.stages_per_rank, *g);
}

}  // namespace tandem
