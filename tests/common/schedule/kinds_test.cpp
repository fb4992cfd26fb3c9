// Goal    gpipe and 1f1b are the published orders and obey their closed forms.
// Method  printed orders; DeepSpeed's step rule as an independent oracle; replay with random
// integer
//         costs, p <= 16, m <= 64, against the laws of schedules.md 2.0; the vectors of section 6.
//
//   T = F + B      makespan (m + p - 1) T      idle of each rank (p - 1) T
//   live on rank r: gpipe m, 1f1b min(p - r, m)
#include <doctest/doctest.h>

#include <random>

#include "common/schedule/check.h"
#include "common/schedule/registry.h"
#include "common/schedule/text.h"
#include "tests/common/schedule/replay.h"
#include "tests/sim/scale.h"

using namespace tandem;

namespace {

Order order_of(const std::string& kind, int p, int m, const ScheduleOptions& options = {}) {
  Result<Order> order = make_order(kind, {p, m, 1}, options);
  if (!order) FAIL(to_text(order.error().diagnostics));
  return std::move(*order);
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

TEST_CASE("1f1b: the printed order") {
  CHECK(to_text(order_of("1f1b", 3, 4)) ==
        "0F0,0F1,0F2,0B0,0F3,0B1,0B2,0B3\n"
        "1F0,1F1,1B0,1F2,1B1,1F3,1B2,1B3\n"
        "2F0,2B0,2F1,2B1,2F2,2B2,2F3,2B3\n");
}

TEST_CASE("gpipe: first in first out, or last in first out") {
  CHECK(to_text(order_of("gpipe", 1, 3)) == "0F0,0F1,0F2,0B0,0B1,0B2\n");
  CHECK(to_text(order_of("gpipe", 1, 3, {{"backward", "lifo"}})) == "0F0,0F1,0F2,0B2,0B1,0B0\n");
}

TEST_CASE("1f1b: DeepSpeed's rule gives the same order") {
  for (int p = 1; p <= 16; ++p)
    for (int m : {1, 2, 3, p, 2 * p + 1, 64}) {
      const Order order = order_of("1f1b", p, m);
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
    int p, m;
    std::int64_t f, b, makespan, idle;
    std::vector<int> peak;
  };
  const std::vector<Row> rows = {
      {"gpipe", 4, 8, 1, 2, 33, 9, {8, 8, 8, 8}}, {"1f1b", 4, 8, 1, 2, 33, 9, {4, 3, 2, 1}},
      {"gpipe", 4, 8, 1, 1, 22, 6, {8, 8, 8, 8}}, {"1f1b", 4, 8, 1, 1, 22, 6, {4, 3, 2, 1}},
      {"gpipe", 2, 4, 1, 2, 15, 3, {4, 4}},       {"1f1b", 2, 4, 1, 2, 15, 3, {2, 1}},
      {"gpipe", 4, 4, 1, 2, 21, 9, {4, 4, 4, 4}}, {"1f1b", 4, 4, 1, 2, 21, 9, {4, 3, 2, 1}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.kind);
    const Replay r = replay(order_of(row.kind, row.p, row.m), {row.f, row.b, 0});
    CHECK(r.ended);
    CHECK(r.makespan == row.makespan);
    for (std::int64_t busy : r.busy) CHECK(r.makespan - busy == row.idle);
    CHECK(r.peak_w == row.peak);
    CHECK(r.peak_i == row.peak);
  }
}

TEST_CASE("laws over random integer costs") {
  const unsigned seed = 2104;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  for (int n = 0; n < sim::scaled(600); ++n) {
    const int p = draw(1, 16), m = draw(1, 64);
    const StageCost cost{draw(1, 50), draw(1, 50), draw(0, 50)};
    const std::int64_t t = cost.f + cost.i + cost.w;
    for (const std::string kind : {"gpipe", "1f1b"}) {
      ScheduleOptions options;
      if (kind == "gpipe" && n % 2) options["backward"] = "lifo";
      const Order order = order_of(kind, p, m, options);
      const Replay r = replay(order, cost);
      CAPTURE(kind);
      CAPTURE(p);
      CAPTURE(m);
      REQUIRE(r.ended);
      REQUIRE(r.makespan == (m + p - 1) * t);
      for (int rank = 0; rank < p; ++rank) {
        const auto i = static_cast<std::size_t>(rank);
        REQUIRE(r.makespan - r.busy[i] == (p - 1) * t);
        REQUIRE(r.peak_w[i] == (kind == "gpipe" ? m : std::min(p - rank, m)));
        REQUIRE(r.peak_i[i] == r.peak_w[i]);
      }
      REQUIRE(check_order(order).ok());
    }
  }
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
}
