#include "common/schedule/evaluate.h"

#include <algorithm>
#include <array>
#include <optional>

#include "common/schedule/text.h"
#include "common/schedule/waiting.h"

namespace tandem {
namespace {

constexpr std::int64_t kNotYet = -1;

// Ends of forwards and of backwards for inputs, by visit; of W nobody but its rank asks.
class Clock {
 public:
  Clock(const Order& order, const ScheduleCosts& costs) : order_(order), costs_(costs) {
    for (auto& ends : ends_) ends.assign(order.num_visits(), kNotYet);
  }

  struct Inputs {
    std::int64_t at = 0;                 // when all are there
    std::optional<std::size_t> missing;  // the key of one that has not ended
  };
  void add_inputs(const Action& a, Inputs& in) const {
    const auto want = [&](bool back, int stage, int slice) {
      const std::size_t visit = order_.visit(a.dir, stage, a.microbatch, slice);
      const std::int64_t end = ends_[back][visit];
      if (end == kNotYet) in.missing = key(back, visit);
      const bool near = order_.rank_of(a.dir, stage) == order_.rank_of(a);
      in.at = std::max(in.at, end + (near ? 0 : costs_.hop));
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
  }
  [[nodiscard]] std::size_t num_keys() const { return 2 * order_.num_visits(); }
  // Of what others wait for; none: W.
  [[nodiscard]] std::optional<std::size_t> key_of(const Action& a) const {
    if (a.kind != ActionKind::F && !is_backward(a.kind)) return {};
    return key(is_backward(a.kind), order_.visit(a));
  }
  void ended(const Action& a, std::int64_t end) {
    if (a.kind == ActionKind::F) ends_[0][order_.visit(a)] = end;
    if (is_backward(a.kind)) ends_[1][order_.visit(a)] = end;
  }

 private:
  [[nodiscard]] static std::size_t key(bool back, std::size_t visit) {
    return 2 * visit + (back ? 1 : 0);
  }
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
  WaitingRanks ranks(num_ranks, clock.num_keys());
  while (const auto taken = ranks.take()) {
    const std::size_t r = *taken;
    const RankOrder& list = order.ranks[r];
    while (next[r] < list.size()) {
      const std::size_t begin = next[r], end = end_of_cell(list, begin);
      Clock::Inputs inputs;
      std::int64_t cost = 0;
      bool computes = false;
      for (std::size_t i = begin; i < end; ++i) {
        if (!is_compute(list[i].kind)) continue;
        clock.add_inputs(list[i], inputs);
        cost += costs.of(list[i]);
        computes = true;
      }
      if (inputs.missing) {
        ranks.sleep(r, *inputs.missing);
        break;
      }
      if (end - begin > 1 && costs.cell) cost = *costs.cell;
      const std::int64_t start = std::max(free[r], inputs.at);
      for (std::size_t i = begin; i < end; ++i) {
        out.actions[r][i] = {start, start + cost};
        if (is_compute(list[i].kind)) clock.ended(list[i], start + cost);
        if (const auto key = clock.key_of(list[i])) ranks.done(*key);
      }
      if (computes && first[r] == kNotYet) first[r] = start;
      if (computes) free[r] = start + cost;
      out.busy[r] += cost;
      next[r] = end;
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
