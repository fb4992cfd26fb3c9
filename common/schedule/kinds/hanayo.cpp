// Hanayo: W waves, 2W stages a rank on a zigzag. APPROXIMATE: the paper's exact order was not
// available; this greedy's makespan is an upper bound of it.
//
//   v = 2W stages a rank, placement v. Among ranks with ready ops the one with the smallest (start,
//   rank), start = max(rank free, earliest ready); of its ops ready then: B before F; of B the
//   smallest microbatch; of F the deepest stage, then the smallest microbatch.
//   Option  waves = W
//   Source  Liu et al., SC 2023 (arXiv 2308.15762); rule of schedules.md 2.15.
#include <algorithm>
#include <optional>

#include "common/schedule/kinds/kinds.h"

namespace tandem {
namespace {

class Greedy {
 public:
  Greedy(const PipelineShape& shape, Order& order)
      : shape_(shape), order_(order), m_(shape.num_microbatches) {
    const auto stages = order.stage_rank.size();
    f_end_.resize(stages);
    b_end_.resize(stages);
    free_.assign(order.ranks.size(), 0);
  }

  void run() {
    for (;;) {
      std::optional<Choice> best;
      for (int r = 0; r < order_.num_ranks(); ++r) {
        const auto mine = proposal(r);
        if (mine && (!best || mine->start < best->start)) best = mine;
      }
      if (!best) return;
      take(*best);
    }
  }

 private:
  struct Choice {
    std::int64_t start;
    bool backward;
    int stage, microbatch;
  };

  [[nodiscard]] std::size_t z(int x) const { return static_cast<std::size_t>(x); }
  [[nodiscard]] std::int64_t hop(int from, int to) const {
    return order_.stage_rank[z(from)] == order_.stage_rank[z(to)] ? 0 : shape_.hop;
  }
  // Microbatches of a stage run in their order, so the next one is ready first.
  [[nodiscard]] std::optional<std::int64_t> ready(bool backward, int stage) const {
    const std::size_t i = (backward ? b_end_ : f_end_)[z(stage)].size();
    if (i >= z(m_)) return {};
    if (!backward) {
      if (stage == 0) return 0;
      const auto& before = f_end_[z(stage - 1)];
      if (i >= before.size()) return {};
      return before[i] + hop(stage - 1, stage);
    }
    if (i >= f_end_[z(stage)].size()) return {};
    std::int64_t at = f_end_[z(stage)][i];
    if (stage + 1 == order_.num_stages()) return at;
    const auto& next = b_end_[z(stage + 1)];
    if (i >= next.size()) return {};
    return std::max(at, next[i] + hop(stage + 1, stage));
  }
  [[nodiscard]] std::optional<Choice> proposal(int rank) const {
    std::vector<Choice> all;
    for (int s = 0; s < order_.num_stages(); ++s) {
      if (order_.stage_rank[z(s)] != rank) continue;
      for (bool backward : {false, true})
        if (const auto at = ready(backward, s))
          all.push_back({std::max(*at, free_[z(rank)]), backward, s,
                         static_cast<int>((backward ? b_end_ : f_end_)[z(s)].size())});
    }
    if (all.empty()) return {};
    return *std::min_element(all.begin(), all.end(), [](const Choice& a, const Choice& b) {
      if (a.start != b.start) return a.start < b.start;
      if (a.backward != b.backward) return a.backward;
      if (a.backward) return a.microbatch < b.microbatch;
      return a.stage != b.stage ? a.stage > b.stage : a.microbatch < b.microbatch;
    });
  }
  void take(const Choice& c) {
    const VisitCost cost = shape_.costs.empty() ? VisitCost{} : shape_.costs[z(c.stage)];
    const std::int64_t end = c.start + (c.backward ? cost.I + cost.W : cost.F);
    (c.backward ? b_end_ : f_end_)[z(c.stage)].push_back(end);
    const std::size_t rank = z(order_.stage_rank[z(c.stage)]);
    free_[rank] = end;
    order_.ranks[rank].push_back(c.backward ? backward(c.stage, c.microbatch)
                                            : forward(c.stage, c.microbatch));
  }

  const PipelineShape& shape_;
  Order& order_;
  int m_;
  std::vector<std::vector<std::int64_t>> f_end_, b_end_;  // by stage, microbatch
  std::vector<std::int64_t> free_;                        // by rank
};

}  // namespace

Result<Order> hanayo(const PipelineShape& shape, const ScheduleOptions&) {
  Order order = empty_order(shape, v_placement(shape.num_ranks, shape.stages_per_rank));
  Greedy(shape, order).run();
  return order;
}

}  // namespace tandem
