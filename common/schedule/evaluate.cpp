#include "common/schedule/evaluate.h"

#include <algorithm>
#include <array>

#include "common/schedule/text.h"

namespace tandem {
namespace {

constexpr std::int64_t kNotYet = -1;

// Ends of forwards and of backwards for inputs, by visit; of W nobody but its rank asks.
class Clock {
 public:
  Clock(const Order& order, const ScheduleCosts& costs) : order_(order), costs_(costs) {
    for (auto& ends : ends_) ends.assign(order.num_visits(), kNotYet);
  }

  // When the inputs of `a` are there; kNotYet where one has not ended.
  [[nodiscard]] std::int64_t ready(const Action& a) const {
    std::int64_t at = 0;
    bool all = true;
    const auto want = [&](bool back, int stage, int slice) {
      const std::int64_t end = ends_[back][order_.visit(a.dir, stage, a.microbatch, slice)];
      if (end == kNotYet) all = false;
      const bool near = order_.rank_of(a.dir, stage) == order_.rank_of(a);
      at = std::max(at, end + (near ? 0 : costs_.hop));
    };
    if (a.kind == ActionKind::F) {
      if (a.stage > 0) want(false, a.stage - 1, a.slice);
      if (a.slice > 0) want(false, a.stage, a.slice - 1);
    } else if (a.kind == ActionKind::W) {
      want(true, a.stage, a.slice);
    } else if (is_backward(a.kind)) {
      want(false, a.stage, a.slice);
      if (a.stage + 1 < order_.num_stages()) want(true, a.stage + 1, a.slice);
      if (a.slice + 1 < order_.num_slices) want(true, a.stage, a.slice + 1);
    }
    return all ? at : kNotYet;
  }
  void ended(const Action& a, std::int64_t end) {
    if (a.kind == ActionKind::F) ends_[0][order_.visit(a)] = end;
    if (is_backward(a.kind)) ends_[1][order_.visit(a)] = end;
  }

 private:
  const Order& order_;
  const ScheduleCosts& costs_;
  std::array<std::vector<std::int64_t>, 2> ends_;
};

int peak_of(const RankOrder& list, bool until_input) {
  int held = 0, peak = 0;
  for (std::size_t i = 0; i < list.size();) {
    const std::size_t end = end_of_cell(list, i);
    for (std::size_t k = i; k < end; ++k) held += list[k].kind == ActionKind::F ? 1 : 0;
    peak = std::max(peak, held);
    for (std::size_t k = i; k < end; ++k)
      held -= (until_input ? is_backward(list[k].kind) : is_weight(list[k].kind)) ? 1 : 0;
    i = end;
  }
  return peak;
}

}  // namespace

std::int64_t ScheduleCosts::of(const Action& a) const {
  const VisitCost& c = of(a.stage);
  switch (a.kind) {
    case ActionKind::F:
      return c.F;
    case ActionKind::I:
      return c.I;
    case ActionKind::W:
      return c.W;
    case ActionKind::B:
      return full.value_or(c.I + c.W);
    default:
      return 0;
  }
}

Result<ScheduleTimes> evaluate(const Order& order, const ScheduleCosts& costs) {
  Clock clock(order, costs);
  const std::size_t num_ranks = order.ranks.size();
  ScheduleTimes out;
  out.actions.resize(num_ranks);
  std::vector<std::int64_t> free(num_ranks, 0), first(num_ranks, kNotYet);
  out.busy.assign(num_ranks, 0);
  std::vector<std::size_t> next(num_ranks, 0);
  for (std::size_t r = 0; r < num_ranks; ++r) out.actions[r].resize(order.ranks[r].size());
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t r = 0; r < num_ranks; ++r) {
      const RankOrder& list = order.ranks[r];
      while (next[r] < list.size()) {
        const std::size_t begin = next[r], end = end_of_cell(list, begin);
        std::int64_t start = free[r], cost = 0;
        bool known = true, computes = false;
        for (std::size_t i = begin; i < end; ++i) {
          if (!is_compute(list[i].kind)) continue;
          const std::int64_t at = clock.ready(list[i]);
          known = known && at != kNotYet;
          start = std::max(start, at);
          cost += costs.of(list[i]);
          computes = true;
        }
        if (!known) break;
        if (end - begin > 1 && costs.cell) cost = *costs.cell;
        for (std::size_t i = begin; i < end; ++i) {
          out.actions[r][i] = {start, start + cost};
          if (is_compute(list[i].kind)) clock.ended(list[i], start + cost);
        }
        if (computes && first[r] == kNotYet) first[r] = start;
        if (computes) free[r] = start + cost;
        out.busy[r] += cost;
        next[r] = end;
        moved = true;
      }
    }
  }
  for (std::size_t r = 0; r < num_ranks; ++r) {
    if (next[r] < order.ranks[r].size())
      return make_error(
          Failure::infeasible, "E-PLAN-024", "the order cannot run to its end",
          "rank " + std::to_string(r) + " waits at " + to_text(order.ranks[r][next[r]]),
          "an order in which every action can run", "mend the order");
    out.makespan = std::max(out.makespan, free[r]);
    if (first[r] != kNotYet) out.span = std::max(out.span, free[r] - first[r]);
    out.ideal = std::max(out.ideal, out.busy[r]);
  }
  for (std::size_t r = 0; r < num_ranks; ++r) {
    out.idle.push_back(out.makespan - out.busy[r]);
    out.peak_visits.push_back(peak_of(order.ranks[r], false));
    out.peak_input.push_back(peak_of(order.ranks[r], true));
  }
  return out;
}

}  // namespace tandem
