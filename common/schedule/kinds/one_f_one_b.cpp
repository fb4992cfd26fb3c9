// 1F1B: as soon as a backward can run, run it. GPipe's makespan, at most p - r live microbatches.
//
//   p = 3, m = 4, F = B = 1 slot, free communication
//     rank 0   F0 F1 F2 .. .. B0 F3 B1 .. B2 .. B3
//     rank 1   .. F0 F1 .. B0 F2 B1 F3 B2 .. B3 ..
//     rank 2   .. .. F0 B0 F1 B1 F2 B2 F3 B3 .. ..
//   Laws    makespan (m + p - 1)(F + B)    idle, each rank (p - 1)(F + B)
//           live on rank r: min(p - r, m)
//   Option  strict=torch refuses m < p, as torch does.
//   Source  PipeDream-Flush (Narayanan et al., 2021); same order as DAPPLE (Fan et al., 2021).
#include <algorithm>
#include <string>

#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> one_f_one_b(const PipelineShape& shape, const ScheduleOptions& options) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  const auto strict = options.find("strict");
  if (strict != options.end() && strict->second == "torch" && m < p)
    return schedule_error("1f1b",
                          "m=" + std::to_string(m) + " is smaller than p=" + std::to_string(p) +
                              "; torch refuses this; drop strict=torch or raise m",
                          "m=" + std::to_string(m), "m >= p with strict=torch",
                          "drop strict=torch or raise m to " + std::to_string(p));
  Order order = linear_order(shape);
  for (int rank = 0; rank < p; ++rank) {
    const int warm_up = std::min(p - 1 - rank, m);  // forwards before any backward
    RankOrder& list = order.ranks[static_cast<std::size_t>(rank)];
    for (int k = 0; k < warm_up; ++k) list.push_back(forward(rank, k));
    for (int k = warm_up; k < m; ++k) {
      list.push_back(forward(rank, k));
      list.push_back(backward(rank, k - warm_up));
    }
    for (int k = m - warm_up; k < m; ++k) list.push_back(backward(rank, k));
  }
  return order;
}

}  // namespace tandem
