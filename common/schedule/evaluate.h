// Times of an order (L1): every action starts when its rank is free and its inputs are done
// (order.h). Two clocks, two bubbles, two counts of memory. Pure and thread-safe; O(actions).
//
//   makespan   latest end over ranks, from 0        span   max over ranks of last end - first start
//   ideal      the busiest rank's work: what it would take without a bubble
//   bubble     of a clock: clock - ideal; ratios divide by the clock
//   idle(r)    makespan - busy(r)
//   peak(r)    visits held: + 1 at the start of F; - 1 at the end of W or B (F until W), or at the
//              end of I or B (F until I)
//   Source  schedules.md 1.2, 1.5, 1.6.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/result.h"
#include "common/schedule/order.h"

namespace tandem {

// Costs have no unit and are integers, so that results are equal on every machine.
struct ScheduleCosts {
  std::vector<VisitCost> stages = {{}};  // one entry: of all stages; else one a stage
  std::optional<std::int64_t> full,
      cell;              // of B: I + W unless given; of a fused cell: sum of parts
  std::int64_t hop = 0;  // from the end of an action to a reader on another rank
  [[nodiscard]] const VisitCost& of(int stage) const {
    return stages.size() == 1 ? stages[0] : stages[static_cast<std::size_t>(stage)];
  }
  [[nodiscard]] std::int64_t of(const Action& a) const;
};

struct ActionTime {
  std::int64_t start = 0, end = 0;
};

struct ScheduleTimes {
  std::vector<std::vector<ActionTime>> actions;  // as in the order; not computing ones: end = start
  std::int64_t makespan = 0, span = 0, ideal = 0;
  std::vector<std::int64_t> busy, idle;      // by rank
  std::vector<int> peak_visits, peak_input;  // by rank: F until W, F until I
};

// E-PLAN-024 where the order cannot run: check_order says why.
[[nodiscard]] Result<ScheduleTimes> evaluate(const Order& order, const ScheduleCosts& costs);

}  // namespace tandem
