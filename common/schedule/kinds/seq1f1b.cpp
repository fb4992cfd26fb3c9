// Seq1F1B: 1F1B over slices of sequences: k slices a microbatch, forwards in their order, backwards
// in reverse, since a slice's attention reads the keys and values of the slices before it.
//
//   f = F(r, i, j), j = 0..k-1      b = B(r, i, j), j = k-1..0      for i = 0..m-1
//   Warm-up  w = min(p-r-2+k, m k)
//   Option   slices = k (1 is 1f1b)
//   Laws     equal slices: makespan (m k + p - 1) T of one slice    live min(p-1-r+k, m k) slices
//   Source   Sun et al., 2024 (arXiv 2406.03488); sail-sg/zero-bubble; schedules.md 2.14.
#include <algorithm>

#include "common/schedule/kinds/kinds.h"

namespace tandem {

Result<Order> seq1f1b(const PipelineShape& shape, const ScheduleOptions& options) {
  const Result<int> slices = int_option("seq1f1b", options, "slices", 1);
  if (!slices) return slices.error();
  const int p = shape.num_ranks, m = shape.num_microbatches, k = *slices;
  Order order = linear_order(shape);
  order.num_slices = k;
  for (int r = 0; r < p; ++r) {
    std::vector<Action> f, b;
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < k; ++j) {
        f.push_back(forward(r, i));
        f.back().slice = j;
        b.push_back(backward(r, i));
        b.back().slice = k - 1 - j;
      }
    alternate(order.ranks[static_cast<std::size_t>(r)], f, b, std::min(p - r - 2 + k, m * k));
  }
  return order;
}

}  // namespace tandem
