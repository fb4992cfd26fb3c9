// Goal    every kind is the published order and obeys its closed forms.
// Method  every order printed in schedules.md 2; DeepSpeed's step rule as an independent oracle;
//         evaluate() against brute force; the vectors of section 6; every refusal. Laws over random
//         orders: laws_test.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "common/schedule/check.h"
#include "common/schedule/evaluate.h"
#include "common/schedule/registry.h"
#include "common/schedule/text.h"
#include "tests/common/schedule/replay.h"
#include "tests/common/schedule/requests.h"
#include "tests/sim/scale.h"

using namespace tandem;

namespace {

Order order_of(const std::string& kind, PipelineShape shape, const ScheduleOptions& options = {}) {
  Result<Order> order = make_order(kind, std::move(shape), options);
  if (!order) FAIL(to_text(order.error().diagnostics));
  return std::move(*order);
}

ScheduleTimes times_of(const Order& order, const ScheduleCosts& costs) {
  Result<ScheduleTimes> t = evaluate(order, costs);
  if (!t) FAIL(to_text(t.error().diagnostics));
  return std::move(*t);
}

ScheduleCosts costs_of(std::int64_t f, std::int64_t i, std::int64_t w) {
  ScheduleCosts c;
  c.stages = {{f, i, w}};
  return c;
}

// What DeepSpeed's TrainSchedule runs on rank r: at step t of 2(m + p - 1) an F if t and r have
// equal parity, else a B; of which microbatch, schedules.md 2.2.
RankOrder deepspeed(int p, int m, int r) {
  RankOrder out;
  for (int t = 0; t < 2 * (m + p - 1); ++t) {
    const bool forward_step = t % 2 == r % 2;
    const auto half = [](int x) { return x >= 0 ? x / 2 : -((1 - x) / 2); };  // floor
    const int i = forward_step ? half(t) - half(r)
                  : t % 2 == 0 ? half(t) - p + half(r + 1)
                               : half(t - 1) - p + 1 + half(r);
    if (i < 0 || i >= m) continue;
    out.push_back(forward_step ? forward(r, i) : backward(r, i));
  }
  return out;
}

}  // namespace

TEST_CASE("orders printed in schedules.md") {
  struct Row {
    const char* kind;
    PipelineShape shape;
    ScheduleOptions options;
    const char* text;  // all ranks, or a prefix of them
  };
  const std::vector<Row> rows = {
      {"1f1b",
       {3, 4},
       {},
       "0F0,0F1,0F2,0B0,0F3,0B1,0B2,0B3\n"
       "1F0,1F1,1B0,1F2,1B1,1F3,1B2,1B3\n"
       "2F0,2B0,2F1,2B1,2F2,2B2,2F3,2B3\n"},
      {"gpipe", {1, 3}, {}, "0F0,0F1,0F2,0B0,0B1,0B2\n"},
      {"gpipe", {1, 3}, {{"backward", "lifo"}}, "0F0,0F1,0F2,0B2,0B1,0B0\n"},
      {"interleaved_1f1b",
       {2, 4, 2},
       {},
       "0F0,0F1,2F0,2F1,0F2,2B0,0F3,2B1,2F2,0B0,2F3,0B1,2B2,2B3,0B2,0B3\n"
       "1F0,1F1,3F0,3B0,3F1,3B1,1F2,1B0,1F3,1B1,3F2,3B2,3F3,3B3,1B2,1B3\n"},
      {"interleaved_1f1b",
       {2, 4, 2},
       {{"overlap", "true"}, {"fuse", "true"}},
       "0F0,0F1,2F0,2F1,0F2,(0F3;2B0)OVERLAP_F_B,(2F2;2B1)OVERLAP_F_B,(2F3;0B0)OVERLAP_F_B,0B1,2B2,"
       "2B3,0B2,0B3\n"
       "1F0,1F1,3F0,(3F1;3B0)OVERLAP_F_B,(1F2;3B1)OVERLAP_F_B,(1F3;1B0)OVERLAP_F_B,(3F2;1B1)"
       "OVERLAP_"
       "F_B,(3F3;3B2)OVERLAP_F_B,3B3,1B2,1B3\n"},
      {"interleaved_1f1b",
       {1, 3, 1},
       {{"overlap", "true"}, {"fuse", "true"}},
       "0F0,(0F1;0B0)OVERLAP_F_B,(0F2;0B1)OVERLAP_F_B,0B2\n"},
      {"bfs",
       {2, 3, 2},
       {},
       "0F0,0F1,0F2,2F0,2F1,2F2,2B2,2B1,2B0,0B2,0B1,0B0\n"
       "1F0,1F1,1F2,3F0,3F1,3F2,3B2,3B1,3B0,1B2,1B1,1B0\n"},
      {"zb_h1",
       {3, 5},
       {},
       "0F0,0F1,0F2,0I0,0W0,0F3,0I1,0W1,0F4,0I2,0W2,0I3,0W3,0I4,0W4\n"
       "1F0,1F1,1I0,1F2,1I1,1W0,1F3,1I2,1W1,1F4,1I3,1W2,1I4,1W3,1W4\n"
       "2F0,2I0,2F1,2I1,2F2,2I2,2W0,2F3,2I3,2W1,2F4,2I4,2W2,2W3,2W4\n"},
      {"interleaved_zb",
       {2, 4, 2},
       {},
       "0F0,0F1,2F0,2F1,2I0,2W0,0F2,2I1,2W1,0F3,0I0,0W0,2F2,0I1,0W1,2F3,2I2,2W2,2I3,2W3,0I2,0W2,"
       "0I3,"
       "0W3\n"
       "1F0,1F1,3F0,3I0,3F1,3I1,3W0,1F2,1I0,3W1,1F3,1I1,1W0,3F2,3I2,1W1,3F3,3I3,3W2,1I2,3W3,1I3,"
       "1W2,"
       "1W3\n"},
      {"zbv",
       {2, 4},
       {},
       "0F0,0F1,0F2,3F0,3I0,3W0,3F1,3I1,3W1,0F3,0I0,0W0,3F2,3I2,3W2,0I1,0W1,3F3,3I3,3W3,0I2,0W2,"
       "0I3,"
       "0W3\n"
       "1F0,2F0,1F1,2F1,2I0,2W0,1F2,1I0,1W0,2F2,2I1,2W1,1F3,1I1,1W1,2F3,2I2,2W2,1I2,2I3,1I3,1W2,"
       "2W3,"
       "1W3\n"},
      {"v_half",
       {2, 4},
       {},
       "0F0,0F1,0F2,3F0,3I0,3W0,3F1,0I0,3I1,3W1,3F2,0W0,0F3,0I1,3I2,3W2,3F3,3I3,0I2,3W3,0I3,0W1,"
       "0W2,"
       "0W3\n"
       "1F0,2F0,1F1,2F1,2I0,2W0,1I0,1W0,1F2,2F2,2I1,1I1,2W1,1F3,1W1,2F3,2I2,1I2,2I3,1I3,2W2,2W3,"
       "1W2,"
       "1W3\n"},
      {"v_min",
       {2, 4},
       {},
       "0F0,0F1,3F0,3I0,3W0,0I0,0W0,3F1,3I1,3W1,0F2,0I1,0W1,3F2,3I2,3W2,0F3,0I2,0W2,3F3,3I3,3W3,"
       "0I3,"
       "0W3\n"
       "1F0,2F0,2I0,1I0,1F1,2F1,2W0,1W0,2I1,1I1,1F2,2F2,2W1,1W1,2I2,1I2,1F3,2F3,2W2,1W2,2I3,1I3,"
       "2W3,"
       "1W3\n"},
      {"dualpipev",
       {2, 5},
       {},
       "0F0,0F1,0F2,3F0,3I0,3W0,3F1,(0F3;3B1)OVERLAP_F_B,(3F2;0B0)OVERLAP_F_B,(0F4;3B2)OVERLAP_F_B,"
       "("
       "3F3;0B1)OVERLAP_F_B,3B3,(3F4;0B2)OVERLAP_F_B,3B4,0I3,0W3,0I4,0W4\n"
       "1F0,2F0,1F1,2F1,1F2,2B0,(2F2;1B0)OVERLAP_F_B,(1F3;2B1)OVERLAP_F_B,(2F3;1B1)OVERLAP_F_B,("
       "1F4;"
       "2B2)OVERLAP_F_B,(2F4;1B2)OVERLAP_F_B,2B3,1B3,2I4,1I4,2W4,1W4\n"},
      {"dualpipe",
       {2, 6},
       {},
       "0F0,1F0@d1,0F1,1B0@d1,(1F1@d1;0B0)OVERLAP_F_B,(0F2;1B1@d1)OVERLAP_F_B,(1F2@d1;0B1)OVERLAP_"
       "F_"
       "B,1B2@d1,0I2,0W2\n"
       "0F0@d1,1F0,0F1@d1,1B0,(1F1;0B0@d1)OVERLAP_F_B,(0F2@d1;1B1)OVERLAP_F_B,(1F2;0B1@d1)OVERLAP_"
       "F_"
       "B,1B2,0I2@d1,0W2@d1\n"},
      {"chimera",
       {4, 4},
       {},
       "0F0,0F1,3F0@d1,3B0@d1,3F1@d1,3B1@d1,0B0,0B1\n"
       "1F0,2F0@d1,1F1,2F1@d1,2B0@d1,1B0,2B1@d1,1B1\n"
       "1F0@d1,2F0,1F1@d1,2F1,2B0,1B0@d1,2B1,1B1@d1\n"
       "0F0@d1,0F1@d1,3F0,3B0,3F1,3B1,0B0@d1,0B1@d1\n"},
      {"hanayo",
       {2, 2},
       {{"waves", "1"}},
       "0F0,0F1,3F0,3B0,3F1,3B1,0B0,0B1\n"
       "1F0,2F0,1F1,2F1,2B0,1B0,2B1,1B1\n"},
      {"zb_greedy",
       {2, 4},
       {{"memory_limit", "3"}},
       "0F0,0F1,0F2,0I0,0W0,0I1,0F3,0I2,0W1,0W2,0I3,0W3\n"
       "1F0,1I0,1F1,1I1,1F2,1I2,1W0,1F3,1I3,1W1,1W2,1W3\n"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.kind);
    const Order order = order_of(row.kind, row.shape, row.options);
    CHECK(to_text(order) == row.text);
    CHECK(check_order(order).ok());
  }
  const auto rank = [](const Order& order, std::size_t r) {
    Order one;
    one.num_slices = order.num_slices;
    one.ranks = {order.ranks[r]};
    return to_text(one);
  };
  CHECK(rank(order_of("zb_h2", {3, 6}), 1) ==
        "1F0,1F1,1F2,1I0,1F3,1I1,1F4,1I2,1W0,1F5,1I3,1W1,1I4,1W2,1I5,1W3,1W4,1W5\n");
  CHECK(rank(order_of("seq1f1b", {3, 2}, {{"slices", "2"}}), 2) ==
        "2F0.s0,2F0.s1,2B0.s1,2F1.s0,2B0.s0,2F1.s1,2B1.s1,2B1.s0\n");
}

TEST_CASE("1f1b: DeepSpeed's rule gives the same order") {
  for (int p = 1; p <= 16; ++p)
    for (int m : {1, 2, 3, p, 2 * p + 1, 64}) {
      const Order order = order_of("1f1b", {p, m});
      for (int r = 0; r < p; ++r) {
        CAPTURE(p);
        CAPTURE(m);
        CAPTURE(r);
        CHECK(order.ranks[static_cast<std::size_t>(r)] == deepspeed(p, m, r));
      }
    }
}

TEST_CASE("vectors of schedules.md 6") {
  struct Row {
    const char* kind;
    PipelineShape shape;
    ScheduleOptions options;
    std::vector<std::int64_t> cost;  // F, I, W, and of a cell
    std::int64_t makespan, span;     // span 0: not given
    std::vector<int> peak;           // one value: the largest; empty: not given
    std::int64_t idle = -1;
  };
  const ScheduleOptions none;
  const std::vector<Row> rows = {
      {"gpipe", {4, 8}, none, {1, 1, 1}, 33, 0, {8, 8, 8, 8}, 9},
      {"1f1b", {4, 8}, none, {1, 1, 1}, 33, 0, {4, 3, 2, 1}, 9},
      {"gpipe", {4, 8}, none, {1, 1, 0}, 22, 0, {8, 8, 8, 8}, 6},
      {"1f1b", {4, 8}, none, {1, 0, 1}, 22, 0, {4, 3, 2, 1}, 6},
      {"gpipe", {2, 4}, none, {1, 1, 1}, 15, 0, {4, 4}, 3},
      {"1f1b", {2, 4}, none, {1, 1, 1}, 15, 0, {2, 1}, 3},
      {"gpipe", {4, 4}, none, {1, 1, 1}, 21, 0, {4, 4, 4, 4}, 9},
      {"1f1b", {4, 4}, none, {1, 1, 1}, 21, 0, {4, 3, 2, 1}, 9},
      {"interleaved_1f1b", {4, 8, 2}, none, {1, 1, 1}, 57, 0, {11, 9, 7, 5}},
      {"interleaved_1f1b", {4, 8, 2}, {{"overlap", "true"}}, {1, 1, 1}, 57, 0, {12, 10, 8, 6}},
      {"interleaved_1f1b", {4, 8, 4}, none, {1, 1, 1}, 105, 0, {19, 17, 15, 13}},
      {"interleaved_1f1b", {2, 4, 2}, none, {1, 1, 1}, 27, 0, {5, 3}},
      {"zb_h1", {4, 8}, none, {1, 1, 1}, 27, 0, {4, 4, 4, 4}, 3},
      {"zb_h1", {4, 12}, none, {1, 1, 1}, 39, 0, {4, 4, 4, 4}},
      {"zb_h1", {4, 8}, none, {2, 2, 1}, 49, 0, {4, 4, 4, 4}},
      {"interleaved_zb", {4, 8, 2}, none, {1, 1, 1}, 51, 0, {8, 8, 8, 8}},
      {"zb_h2", {4, 8}, none, {1, 1, 1}, 27, 24, {7, 7, 7, 7}},
      {"zb_h2", {4, 8}, none, {2, 2, 1}, 46, 46, {7, 7, 7, 7}},
      {"zbv", {4, 8}, none, {1, 1, 1}, 51, 48, {8, 8, 8, 8}},
      {"zbv", {4, 8}, none, {2, 2, 1}, 86, 86, {8, 8, 8, 8}},
      {"v_half", {4, 8}, none, {1, 1, 1}, 53, 53, {6}},
      {"v_half", {4, 12}, none, {1, 1, 1}, 77, 77, {6}},
      {"v_min", {4, 8}, none, {1, 1, 1}, 59, 59, {4}},
      {"v_min", {4, 12}, none, {1, 1, 1}, 83, 83, {4}},
      {"zb_greedy", {4, 8}, {{"memory_limit", "4"}}, {1, 1, 1}, 27, 27, {4, 4, 4, 4}},
      {"zb_greedy", {4, 8}, {{"memory_limit", "8"}}, {1, 1, 1}, 27, 24, {8, 8, 8, 8}},
      {"seq1f1b", {4, 8}, {{"slices", "1"}}, {1, 1, 1}, 33, 0, {4, 3, 2, 1}},
      {"seq1f1b", {4, 8}, {{"slices", "2"}}, {1, 1, 1}, 57, 0, {5, 4, 3, 2}},
      {"dualpipe", {4, 8}, none, {2, 2, 2, 6}, 52, 0, {5, 5, 5, 5}},
      {"dualpipe", {4, 8}, none, {2, 2, 2, 5}, 48, 0, {5, 5, 5, 5}},
      {"dualpipe", {4, 8}, none, {2, 2, 2, 4}, 44, 0, {5, 5, 5, 5}},
      {"dualpipev", {2, 8}, none, {2, 2, 2, 6}, 100, 0, {5, 5}},
      {"dualpipev", {2, 8}, none, {2, 2, 2, 5}, 88, 0, {5, 5}},
      {"dualpipev", {2, 8}, none, {2, 2, 2, 4}, 76, 0, {5, 5}},
      {"chimera", {4, 4}, none, {1, 1, 0}, 10, 0, {3, 4, 4, 3}},
      {"chimera", {4, 4}, none, {1, 1, 1}, 16, 0, {3, 4, 4, 3}},
      // costs times 2W: 26 of 2, 44 of 4
      {"hanayo", {3, 3}, {{"waves", "1"}}, {1, 1, 1}, 26, 0, {}},
      {"hanayo", {3, 3}, {{"waves", "2"}}, {1, 1, 1}, 44, 0, {}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.kind);
    CAPTURE(row.shape.num_microbatches);
    const Order order = order_of(row.kind, row.shape, row.options);
    ScheduleCosts costs = costs_of(row.cost[0], row.cost[1], row.cost[2]);
    if (row.cost.size() > 3) costs.cell = row.cost[3];
    const ScheduleTimes t = times_of(order, costs);
    CHECK(t.makespan == row.makespan);
    if (row.span) CHECK(t.span == row.span);
    if (row.idle >= 0)
      for (std::int64_t idle : t.idle) CHECK(idle == row.idle);
    if (row.peak.size() == 1)
      CHECK(*std::max_element(t.peak_visits.begin(), t.peak_visits.end()) == row.peak[0]);
    else if (!row.peak.empty())
      CHECK(t.peak_visits == row.peak);
  }
}

TEST_CASE("evaluate: brute force gives the same times") {
  const unsigned seed = 6100;
  MESSAGE("seed " << seed);
  Draw draw{std::mt19937(seed)};
  const std::vector<std::string> kinds = schedule_kinds();
  for (int n = 0; n < sim::scaled(200); ++n) {
    Request r = request_of(draw, kinds[static_cast<std::size_t>(n) % kinds.size()]);
    r.shape.num_ranks = std::min(r.shape.num_ranks, 4),
    r.shape.num_microbatches = std::min(r.shape.num_microbatches, 8);
    r.shape.costs.clear();
    const Result<Order> order = make_order(r.kind, r.shape, r.options);
    if (!order) continue;  // the smaller shape is not one of the kind
    ScheduleCosts costs;
    costs.stages.clear();
    for (int s = 0; s < order->num_stages(); ++s)
      costs.stages.push_back({draw(0, 9), draw(1, 9), draw(0, 9)});
    costs.hop = draw(0, 3);
    if (draw(0, 1)) costs.cell = draw(5, 20);
    const ScheduleTimes t = times_of(*order, costs);
    const Replay slow = replay(*order, costs);
    REQUIRE(slow.ended);
    CAPTURE(r.kind);
    CHECK(t.makespan == slow.makespan);
    for (std::size_t rank = 0; rank < t.actions.size(); ++rank)
      for (std::size_t i = 0; i < t.actions[rank].size(); ++i) {
        REQUIRE(t.actions[rank][i].start == slow.start[rank][i]);
        REQUIRE(t.actions[rank][i].end == slow.end[rank][i]);
      }
  }
}

TEST_CASE("zb_greedy: never worse than a pattern of its portfolio that fits its cap") {
  const unsigned seed = 1616;
  MESSAGE("seed " << seed);
  Draw draw{std::mt19937(seed)};
  int better = 0;
  const int cases = sim::scaled(1000);
  for (int n = 0; n < cases; ++n) {
    const int p = draw(2, 4), m = draw(p, 8), v = draw(1, 2);
    PipelineShape shape{p, m, v, {}, 0};
    ScheduleCosts costs;
    costs.stages.clear();
    for (int s = 0; s < p * v; ++s) costs.stages.push_back({draw(1, 30), draw(1, 30), draw(1, 30)});
    shape.costs = costs.stages;
    shape.hop = costs.hop = draw(0, 4);
    const int cap = draw(v == 1 ? 1 : 4, 2 * p * v);
    const ScheduleTimes t =
        times_of(order_of("zb_greedy", shape, {{"memory_limit", std::to_string(cap)}}), costs);
    bool strictly = false, any = false;
    for (const char* kind : {"1f1b", "zb_h1", "zb_h2", "zbv", "v_half", "v_min"}) {
      const Result<Order> pattern = make_order(kind, shape, {});
      if (!pattern) continue;
      const ScheduleTimes other = times_of(*pattern, costs);
      if (*std::max_element(other.peak_visits.begin(), other.peak_visits.end()) > cap) continue;
      CAPTURE(kind);
      CAPTURE(n);
      REQUIRE(t.span <= other.span);
      any = true;
      strictly = strictly || t.span < other.span;
    }
    better += any && strictly ? 1 : 0;
  }
  MESSAGE(better << " of " << cases << " strictly better than some pattern that fits");
  CHECK(better > cases / 4);
}

namespace {

// Every order of one rank in which F, I and W of a stage ascend and follow each other: microbatches
// are alike, so others are no faster.
std::vector<RankOrder> all_orders(int stage, int m) {
  std::vector<RankOrder> out;
  RankOrder list;
  const std::function<void(int, int, int)> extend = [&](int f, int i, int w) {
    if (w == m) out.push_back(list);
    const auto with = [&](ActionKind kind, int mb, int df, int di, int dw) {
      list.push_back({kind, stage, mb});
      extend(f + df, i + di, w + dw);
      list.pop_back();
    };
    if (f < m) with(ActionKind::F, f, 1, 0, 0);
    if (i < f) with(ActionKind::I, i, 0, 1, 0);
    if (w < i) with(ActionKind::W, w, 0, 0, 1);
  };
  extend(0, 0, 0);
  return out;
}

int held(const RankOrder& list) {
  int now = 0, peak = 0;
  for (const Action& a : list) {
    if (a.kind == ActionKind::F) peak = std::max(peak, ++now);
    if (a.kind == ActionKind::W) --now;
  }
  return peak;
}

}  // namespace

TEST_CASE("zb_greedy: distance from the best of all orders on tiny cases") {
  const unsigned seed = 1610;
  MESSAGE("seed " << seed);
  Draw draw{std::mt19937(seed)};
  std::vector<double> distances;
  for (int n = 0; n < sim::scaled(40); ++n) {
    const int p = draw(2, 3), m = p == 2 ? draw(2, 4) : draw(2, 3), cap = draw(1, m);
    PipelineShape shape{p, m, 1, {}, 0};
    ScheduleCosts costs;
    costs.stages.clear();
    for (int s = 0; s < p; ++s) costs.stages.push_back({draw(1, 20), draw(1, 20), draw(1, 20)});
    shape.costs = costs.stages;
    const std::int64_t found =
        times_of(order_of("zb_greedy", shape, {{"memory_limit", std::to_string(cap)}}), costs).span;
    std::vector<std::vector<RankOrder>> choices;
    for (int r = 0; r < p; ++r) {
      choices.push_back(all_orders(r, m));
      std::erase_if(choices.back(), [&](const RankOrder& list) { return held(list) > cap; });
    }
    std::int64_t best = INT64_MAX;
    Order order = order_of("zb_h2", {p, m});  // its placement
    const std::function<void(std::size_t)> choose = [&](std::size_t r) {
      if (r == choices.size()) {
        if (const Result<ScheduleTimes> t = evaluate(order, costs)) best = std::min(best, t->span);
        return;
      }
      for (const RankOrder& list : choices[r]) {
        order.ranks[r] = list;
        choose(r + 1);
      }
    };
    choose(0);
    REQUIRE(best <= found);
    distances.push_back(static_cast<double>(found) / static_cast<double>(best) - 1);
  }
  std::sort(distances.begin(), distances.end());
  const double median = distances[distances.size() / 2];
  MESSAGE("median " << 100 * median << " %, largest " << 100 * distances.back() << " %");
  CHECK(median <= 0.01);
}

TEST_CASE("what a kind refuses") {
  const auto refused = [](const std::string& kind, const PipelineShape& shape,
                          const ScheduleOptions& options = {}) {
    const Result<Order> order = make_order(kind, shape, options);
    REQUIRE_FALSE(order.ok());
    CHECK(order.error().diagnostics[0].code == "E-PLAN-001");
    CHECK(order.error().failure == Failure::infeasible);
    return order.error().diagnostics[0].title;
  };
  CHECK(refused("1f1b", {4, 2, 1}, {{"strict", "torch"}}) ==
        "sched/1f1b: m=2 is smaller than p=4; torch refuses this; drop strict=torch or raise m");
  CHECK(refused("gpipe", {2, 2, 3}) == "sched/gpipe: this schedule fixes v=1 (got v=3)");
  CHECK(refused("1f1b", {0, 1, 1}).starts_with("sched/1f1b: p, m and v must be >= 1 (got p=0"));
  CHECK(refused("zbv", {2, 2, 1}).starts_with("sched/zbv: "));
  CHECK(refused("gpipe", {2, 2, 1}, {{"backward", "up"}}).starts_with("sched/gpipe: "));
  CHECK(refused("zbv", {2, 2, 3}) == "sched/zbv: this schedule fixes v=2 (got v=3)");
  CHECK(refused("hanayo", {2, 2, 2}, {{"waves", "2"}}) ==
        "sched/hanayo: this schedule fixes v=4 (got v=2)");
  CHECK(refused("1f2b", {2, 2}).starts_with("sched/1f2b: no such schedule; the kinds are gpipe, "));
  CHECK(refused("gpipe", {2, 2}, {{"slices", "2"}}) ==
        "sched/gpipe: slices is not an option of this kind; only seq1f1b takes it; drop it");
  CHECK(refused("interleaved_1f1b", {4, 8, 2}, {{"group", "2"}}) ==
        "sched/interleaved_1f1b: group size g=2 is smaller than p=4; ranks would wait for each "
        "other; use 4 <= g <= m");
  CHECK(
      refused("interleaved_1f1b", {4, 9, 2}, {{"group", "8"}}) ==
      "sched/interleaved_1f1b: last group has 1 microbatch, fewer than p=4; change m or g so that "
      "m mod g is 0 or >= p");
  CHECK(refused("interleaved_1f1b", {4, 11, 2}) ==
        "sched/interleaved_1f1b: m=11 is not a multiple of 2 rounds (p=4); give g, or use m=10 or "
        "m=12");
  CHECK(refused("interleaved_1f1b", {4, 8, 1}) ==
        "sched/interleaved_1f1b: v=1; use 1f1b or eager_1f1b");
  CHECK(refused("interleaved_1f1b", {4, 8, 2}, {{"fuse", "true"}})
            .starts_with("sched/interleaved_1f1b: fuse=true without overlap=true"));
  CHECK(refused("zb_h1", {4, 3}).starts_with("sched/zb_h1: m=3 is smaller than p=4; "));
  CHECK(refused("interleaved_zb", {4, 3, 2})
            .starts_with("sched/interleaved_zb: m=3 is smaller than p=4; "));
  CHECK(
      refused("dualpipe", {5, 20})
          .starts_with("sched/dualpipe: p=5 is odd; two directions need an even number of ranks"));
  CHECK(refused("dualpipe", {4, 6}).starts_with("sched/dualpipe: m=6 is smaller than 2p=8"));
  CHECK(refused("dualpipe", {4, 9}).starts_with("sched/dualpipe: m=9 is odd; "));
  CHECK(refused("chimera", {3, 4}).starts_with("sched/chimera: p=3 is odd; "));
  CHECK(refused("zb_greedy", {2, 4, 2}, {{"memory_limit", "1"}})
            .starts_with("sched/zb_greedy: memory cap 1 on rank 0 is smaller than v=2; "));
}
