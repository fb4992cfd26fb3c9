// Goal    steps whose updates are checked late overlap: a step takes the span of the schedule, not
//         its makespan (schedules.md 1.5 and 2.0).
// Method  plans of the real builder with every duration given: a visit's F, I and W take what the
//         case says, all else nothing. Closed forms of both clocks, and steps that all take the
//         same from the first one on.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "sim/simulate.h"
#include "tests/common/plan/plan_of.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

struct Costs {
  int f = 0, i = 0, w = 0;
};
constexpr Picoseconds kUnit = 1'000'000;

// Steps in units, by step, of p ranks and m microbatches with one stage of the model each.
std::vector<double> steps(const std::string& kind, int p, int m, Costs c, bool late,
                          int count = 3) {
  const Plan plan = plan_of(
      scenario(fmt::format("model: {{preset: gpt-tiny, layers: {}, tied_embeddings: false}}\n"
                           "training: {{global_batch: {}, micro_batch: 1}}\nparallel: {{pp: {}}}\n"
                           "schedule: {{kind: {}, optimizer_barrier: {}{}}}\n",
                           2 * p, m, p, kind, late ? "post_validated" : "synchronous",
                           kind.starts_with("zb") ? ", first_stage: keep" : "")));
  ReplayDurations durations;
  std::map<std::tuple<int, int, int, Phase>, bool> paid;  // rank, stage, microbatch, phase
  for (int r = 0; r < p; ++r) {
    const Program& program = plan.programs[static_cast<std::size_t>(r)];
    for (std::uint32_t k = program.first_op; k < program.first_op + program.num_ops; ++k) {
      const Op& o = plan.ops[k];
      Picoseconds time = 0;
      if (o.kind == OpKind::compute &&
          !std::exchange(paid[{r, o.stage, o.microbatch, o.phase}], true)) {
        const int units = o.phase == Phase::F   ? c.f
                          : o.phase == Phase::I ? c.i
                          : o.phase == Phase::W ? c.w
                          : o.phase == Phase::B ? c.i + c.w
                                                : 0;
        time = units * kUnit;
      }
      durations.set(plan, Rank{r}, OpId{k}, time);
    }
  }
  ClusterSpec spec = device_spec(1, p);
  spec.device.launch_overhead = 0;
  SimOptions options;
  options.steps = count;
  options.replay = &durations;
  options.check_capacity = false;
  options.ranks = RankSelection::all;
  const auto result = simulate(plan, cluster_of(spec, p), options);
  REQUIRE(result.ok());
  std::vector<double> out(static_cast<std::size_t>(count), 0);
  std::int64_t first = INT64_MAX;
  for (const StepMark& s : result->timeline.steps) {
    double& step = out[static_cast<std::size_t>(s.step)];
    step = std::max(step, static_cast<double>(s.ended - s.started) / kUnit);
    first = std::min(first, s.started);
  }
  CHECK(first == 0);
  return out;
}

void check_step(const std::string& kind, int p, int m, Costs c, bool late, double expected) {
  INFO(fmt::format("{} p {} m {}: F {} I {} W {}, {}", kind, p, m, c.f, c.i, c.w,
                   late ? "late" : "waits"));
  for (double step : steps(kind, p, m, c, late)) CHECK(step == doctest::Approx(expected));
}

}  // namespace

TEST_CASE("zb_h2: the makespan with a barrier, the span without; no bubble where F = I = W") {
  for (const Costs c : {Costs{1, 1, 1}, Costs{2, 3, 2}, Costs{3, 3, 2}, Costs{2, 2, 1}})
    for (const int p : {2, 4}) {
      const int m = 2 * p, busy = m * (c.f + c.i + c.w);
      const int ms = (p - 1) * std::max({c.f, c.i - c.f, c.f + c.i - 2 * c.w});
      const int span = (p - 1) * std::max({0, c.i - c.f, c.f + c.i - 2 * c.w});
      check_step("zb_h2", p, m, c, false, busy + ms);
      check_step("zb_h2", p, m, c, true, busy + span);
    }
}

TEST_CASE("zbv: 2(p - 1)(I - W) without a barrier") {
  for (const Costs c : {Costs{1, 1, 1}, Costs{2, 3, 2}})
    for (const int p : {2, 4}) {
      const int m = 2 * p, busy = 2 * m * (c.f + c.i + c.w);
      check_step("zbv", p, m, c, false, busy + (p - 1) * std::max(c.i, 2 * (c.i - c.w)));
      check_step("zbv", p, m, c, true, busy + 2 * (p - 1) * (c.i - c.w));
    }
}

TEST_CASE("1f1b and gpipe gain nothing: their first rank begins first and ends last") {
  for (const char* kind : {"1f1b", "gpipe"})
    for (const bool late : {false, true}) {
      const int p = 4, m = 8;
      check_step(kind, p, m, {1, 1, 1}, late, (m + p - 1) * 3);
    }
}

}  // namespace tandem::sim
