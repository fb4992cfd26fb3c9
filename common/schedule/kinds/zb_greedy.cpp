// The zero-bubble scheduler for measured costs: a greedy over a portfolio of priorities, the fixed
// patterns that fit, and a descent by swaps; never worse than a pattern of its portfolio.
//
//   Step       each rank proposes one op: of its ready I and the F that the cap allows, those that
//              start first; a W where nothing is ready, or where it fits into the gap before that
//              (cost <= gap, or gap >= theta cost). The smallest (start, rank) runs.
//   Cap        visits a rank may hold; F of chunk c is allowed while held + 1 <= cap - (v-1-c):
//   what
//              deeper chunks need stays free, so it never locks (schedules.md 5.5)
//   mu         share of a visit that I frees; W frees the rest
//   Portfolio  I before F, F before I  x  theta 0, 1/2, 1  x  limit on F without their I (none;
//              linear: p-r, 2(p-r)-1); then 1f1b, zb_h1, zb_h2 (linear), zbv, v_half, v_min (v)
//   Objective  span (post-validated optimizer) or ms; the other clock decides ties
//   Source     schedules.md 2.16; cap p is ZB-1p, 2p ZB-2p of Qi et al., ICLR 2024.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "common/base/text.h"
#include "common/schedule/check.h"
#include "common/schedule/evaluate.h"
#include "common/schedule/kinds/kinds.h"

namespace tandem {
namespace {

struct Problem {
  const PipelineShape& shape;
  Order empty;
  ScheduleCosts costs;
  std::string placement;
  int v = 1;
  // Memory in parts of a visit, so that all is whole numbers.
  std::int64_t visit = 1, freed_by_i = 0, cap = 0;
  bool by_span = true;
};

struct Policy {
  bool i_first = true;
  int theta_halves = 0;    // theta: 0, 1/2, 1
  std::vector<int> limit;  // by rank: F without their I; empty: none
};

using Score = std::pair<std::int64_t, std::int64_t>;

class Greedy {
 public:
  Greedy(const Problem& problem, const Policy& policy)
      : p_(problem), policy_(policy), out_(problem.empty) {
    const auto stages = out_.stage_rank.size();
    f_end_.resize(stages);
    i_end_.resize(stages);
    const auto ranks = out_.ranks.size();
    free_.assign(ranks, 0);
    held_.assign(ranks, 0);
    open_.assign(ranks, 0);
    next_w_.assign(ranks, 0);
    issued_.resize(ranks);
    mine_.resize(ranks);
    for (int s = 0; s < out_.num_stages(); ++s) mine_[rank(s)].push_back(s);
  }

  std::optional<Order> run() {
    const std::size_t total =
        3 * out_.stage_rank.size() * static_cast<std::size_t>(out_.num_microbatches);
    for (std::size_t done = 0; done < total; ++done) {
      std::optional<Choice> best;
      std::size_t at = 0;
      for (std::size_t r = 0; r < out_.ranks.size(); ++r) {
        const auto mine = proposal(r);
        if (mine && (!best || mine->start < best->start)) best = mine, at = r;
      }
      if (!best) return {};
      take(at, *best);
    }
    return std::move(out_);
  }

 private:
  struct Choice {
    std::int64_t start;
    Action action;
  };
  static std::size_t z(int x) { return static_cast<std::size_t>(x); }
  [[nodiscard]] std::size_t rank(int stage) const { return z(out_.stage_rank[z(stage)]); }
  [[nodiscard]] std::int64_t hop(int a, int b) const {
    return rank(a) == rank(b) ? 0 : p_.costs.hop;
  }

  [[nodiscard]] std::optional<std::int64_t> ready_f(int s) const {
    const std::size_t i = f_end_[z(s)].size();
    if (i >= z(out_.num_microbatches)) return {};
    if (s == 0) return 0;
    if (i >= f_end_[z(s - 1)].size()) return {};
    return f_end_[z(s - 1)][i] + hop(s - 1, s);
  }
  [[nodiscard]] std::optional<std::int64_t> ready_i(int s) const {
    const std::size_t i = i_end_[z(s)].size();
    if (i >= f_end_[z(s)].size()) return {};
    const std::int64_t at = f_end_[z(s)][i];
    if (s + 1 == out_.num_stages()) return at;
    if (i >= i_end_[z(s + 1)].size()) return {};
    return std::max(at, i_end_[z(s + 1)][i] + hop(s + 1, s));
  }
  [[nodiscard]] bool allowed(std::size_t r, std::size_t chunk) const {
    const std::int64_t deeper = p_.v - 1 - static_cast<int>(chunk);
    return held_[r] + p_.visit <= (p_.cap - deeper) * p_.visit &&
           (policy_.limit.empty() || open_[r] < policy_.limit[r]);
  }

  [[nodiscard]] std::optional<Choice> proposal(std::size_t r) const {
    std::optional<Choice> best;
    const auto offer = [&](ActionKind kind, int s, std::optional<std::int64_t> ready) {
      if (!ready) return;
      const auto& ends = kind == ActionKind::F ? f_end_ : i_end_;
      const Choice c{std::max(*ready, free_[r]), {kind, s, static_cast<int>(ends[z(s)].size())}};
      if (best) {
        if (c.start > best->start) return;
        const bool first = (kind == ActionKind::I) == policy_.i_first;
        // Stages ascend, so a later one of the same kind is deeper.
        if (c.start == best->start && kind != best->action.kind && !first) return;
      }
      best = c;
    };
    for (std::size_t c = 0; c < mine_[r].size(); ++c) {
      offer(ActionKind::I, mine_[r][c], ready_i(mine_[r][c]));
      if (allowed(r, c)) offer(ActionKind::F, mine_[r][c], ready_f(mine_[r][c]));
    }
    if (next_w_[r] == issued_[r].size()) return best;
    const Action& head = issued_[r][next_w_[r]];
    const Choice w{free_[r], {ActionKind::W, head.stage, head.microbatch}};
    if (!best) return w;
    const std::int64_t gap = best->start - free_[r], cost = p_.costs.of(w.action);
    if (gap > 0 && (cost <= gap || 2 * gap >= policy_.theta_halves * cost)) return w;
    return best;
  }

  void take(std::size_t r, const Choice& c) {
    const std::int64_t end = c.start + p_.costs.of(c.action);
    free_[r] = end;
    out_.ranks[r].push_back(c.action);
    switch (c.action.kind) {
      case ActionKind::F:
        f_end_[z(c.action.stage)].push_back(end);
        held_[r] += p_.visit;
        ++open_[r];
        break;
      case ActionKind::I:
        i_end_[z(c.action.stage)].push_back(end);
        issued_[r].push_back(c.action);
        held_[r] -= p_.freed_by_i;
        --open_[r];
        break;
      default:
        ++next_w_[r];
        held_[r] -= p_.visit - p_.freed_by_i;
        break;
    }
  }

  const Problem& p_;
  const Policy& policy_;
  Order out_;
  std::vector<std::vector<std::int64_t>> f_end_, i_end_;  // by stage, microbatch
  std::vector<std::int64_t> free_, held_;                 // by rank
  std::vector<int> open_;                                 // F without their I
  std::vector<std::size_t> next_w_;
  std::vector<RankOrder> issued_;
  std::vector<std::vector<int>> mine_;  // stages of a rank, ascending: chunk 0, 1, ...
};

// Most parts of a visit that a rank holds.
std::int64_t peak_of(const Problem& p, const RankOrder& list) {
  std::int64_t held = 0, peak = 0;
  for (const Action& a : list) {
    if (a.kind == ActionKind::F) held += p.visit;
    if (a.kind == ActionKind::I) held -= p.freed_by_i;
    if (a.kind == ActionKind::W) held -= p.visit - p.freed_by_i;
    peak = std::max(peak, held);
  }
  return peak;
}

bool fits(const Problem& p, const Order& order) {
  return std::all_of(order.ranks.begin(), order.ranks.end(),
                     [&](const RankOrder& list) { return peak_of(p, list) <= p.cap * p.visit; });
}

std::optional<Score> score_of(const Problem& p, const Order& order) {
  const Result<ScheduleTimes> t = evaluate(order, p.costs);
  if (!t) return {};
  return p.by_span ? Score{t->span, t->makespan} : Score{t->makespan, t->span};
}

struct Best {
  std::optional<Order> order;
  Score score;
  void offer(const Problem& p, Order candidate) {
    const auto s = score_of(p, candidate);
    if (s && (!order || *s < score)) order = std::move(candidate), score = *s;
  }
};

// A fixed pattern with every B split.
void offer_pattern(const Problem& p, const Result<Order>& pattern, Best& best) {
  if (!pattern) return;
  Order order = *pattern;
  for (RankOrder& list : order.ranks) {
    RankOrder split;
    for (const Action& a : list) {
      split.push_back(a);
      if (a.kind != ActionKind::B) continue;
      split.back().kind = ActionKind::I;
      split.push_back({ActionKind::W, a.stage, a.microbatch});
    }
    list = std::move(split);
  }
  if (fits(p, order)) best.offer(p, std::move(order));
}

// Swaps neighbours while that makes the score smaller.
void descend(const Problem& p, Best& best) {
  Order& order = *best.order;
  for (bool swapped = true; swapped;) {
    swapped = false;
    for (RankOrder& list : order.ranks)
      for (std::size_t i = 0; i + 1 < list.size(); ++i) {
        // An action and its own next one cannot change places.
        if (same_visit(list[i], list[i + 1])) continue;
        std::swap(list[i], list[i + 1]);
        if (peak_of(p, list) <= p.cap * p.visit)
          if (const auto s = score_of(p, order); s && *s < best.score) {
            best.score = *s;
            swapped = true;
            continue;
          }
        std::swap(list[i], list[i + 1]);
      }
  }
}

// "0.25" as 25 of 100: whole numbers of at most nine decimals.
std::optional<std::pair<std::int64_t, std::int64_t>> fraction(const std::string& text) {
  const bool negative = text.starts_with("-");
  const std::string digits = text.substr(negative ? 1 : 0);
  const auto dot = digits.find('.');
  const std::string whole = digits.substr(0, dot),
                    rest = dot == std::string::npos ? "" : digits.substr(dot + 1);
  if (whole.empty() || whole.size() > 6 || rest.size() > 9) return {};
  std::int64_t value = 0, unit = 1;
  for (char c : whole + rest) {
    if (c < '0' || c > '9') return {};
    value = 10 * value + (c - '0');
  }
  for (std::size_t i = 0; i < rest.size(); ++i) unit *= 10;
  return std::pair{negative ? -value : value, unit};
}

}  // namespace

Result<Order> zb_greedy(const PipelineShape& shape, const ScheduleOptions& options) {
  const std::string kind = "zb_greedy";
  const int p = shape.num_ranks, v = shape.stages_per_rank;
  Problem problem{shape, {}, {}, option(options, "placement", v == 1 ? "linear" : "v"), v};
  if (problem.placement != "linear" && problem.placement != "loop" && problem.placement != "v")
    return schedule_error(
        kind, "placement=" + problem.placement + " is no placement; write linear, loop or v",
        problem.placement, "linear, loop or v", "write schedule.placement: v");
  if (problem.placement == "linear" && v != 1)
    return schedule_error(
        kind, fmt::format("placement=linear has one stage a rank, not v={}; use loop or v", v),
        fmt::format("v={}", v), "v=1", "write schedule.placement: v");
  problem.empty =
      empty_order(shape, problem.placement == "v" ? v_placement(p, v) : loop_placement(p, v));
  if (!shape.costs.empty()) problem.costs.stages = shape.costs;
  problem.costs.hop = shape.hop;
  const Result<int> cap = int_option(kind, options, "memory_limit", p * v);
  if (!cap) return cap.error();
  problem.cap = *cap;
  if (*cap < v)
    return schedule_error(kind,
                          fmt::format("memory cap {} on rank 0 is smaller than v={}; one "
                                      "microbatch alone holds a visit of each stage; use {} "
                                      "or more",
                                      *cap, v, v),
                          fmt::format("memory_limit={}", *cap), fmt::format("{} or more", v),
                          fmt::format("write schedule.memory_limit: {}", p * v));
  const std::string mu = option(options, "mu", "0");
  const auto share = fraction(mu);
  if (!share || share->first > share->second)
    return schedule_error(kind, "mu=" + mu + " is no share; write a decimal of at most 1", mu,
                          "a decimal of at most 1", "write schedule.mu: 0.5");
  problem.freed_by_i = share->first;
  problem.visit = share->second;
  const std::string objective = option(options, "objective", "span");
  if (objective != "span" && objective != "ms")
    return schedule_error(kind, "objective=" + objective + " is no clock; write span or ms",
                          objective, "span or ms", "write schedule.objective: span");
  problem.by_span = objective == "span";

  std::vector<std::vector<int>> limits = {{}};
  if (problem.placement == "linear") {
    std::vector<int> one, two;
    for (int r = 0; r < p; ++r) one.push_back(p - r), two.push_back(2 * (p - r) - 1);
    limits.push_back(one);
    limits.push_back(two);
  }
  Best best;
  for (bool i_first : {true, false})
    for (int theta : {0, 1, 2})
      for (const std::vector<int>& limit : limits)
        if (auto order = Greedy(problem, {i_first, theta, limit}).run())
          best.offer(problem, std::move(*order));
  const auto pattern = [&](auto* make) { offer_pattern(problem, make(shape, {}), best); };
  if (problem.placement == "linear") pattern(one_f_one_b), pattern(zb_h1), pattern(zb_h2);
  if (problem.placement == "v" && v == 2) pattern(zbv), pattern(v_half), pattern(v_min);
  if (!best.order)
    return schedule_error(
        kind, fmt::format("no order fits {} visits with mu={}; raise memory_limit", *cap, mu),
        fmt::format("memory_limit={}", *cap), "a larger cap", "raise schedule.memory_limit");
  descend(problem, best);
  return std::move(*best.order);
}

}  // namespace tandem
