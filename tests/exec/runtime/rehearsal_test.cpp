// Goal    a rehearsed step is the plan's: every op once, in an order that the plan allows, as long
// as
//         its duration says, with the plan's peak memory and none of its own; and its times are
//         those of the simulator for the same durations.
// Method  ranks are threads with a transport of tokens between them. Durations are random multiples
//         of a ms, so that any wrong wait shows; laws between spans are exact, only the comparison
//         with the simulator has room for a busy machine.
#include "exec/device/rehearsal.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <thread>

#include "common/timeline/check_timeline.h"
#include "exec/runtime/interpreter.h"
#include "sim/memory/tracker.h"
#include "sim/simulate.h"
#include "tests/common/plan/plan_of.h"
#include "tests/exec/transport/run_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

constexpr Nanoseconds kMs = 1'000'000;

void sleep(Nanoseconds ns) { std::this_thread::sleep_for(std::chrono::nanoseconds(ns)); }

struct Rehearsed {
  std::vector<Timeline> ranks;  // one step each
  std::vector<StepResult> steps;
  Nanoseconds slipped = 0;  // of all ranks together
};

Rehearsed rehearse(const Plan& plan, const std::vector<std::vector<Nanoseconds>>& durations) {
  const int world = plan.header.mesh.world();
  const LocalOptions options{60'000 * kMs, {}, true, true};
  const Transports transports = make_transports(plan, options);
  Rehearsed out;
  out.ranks.resize(static_cast<std::size_t>(world));
  out.steps.resize(static_cast<std::size_t>(world));
  std::vector<std::string> errors(static_cast<std::size_t>(world));
  std::vector<Nanoseconds> slipped(static_cast<std::size_t>(world));
  on_threads(world, [&](int r) {
    const auto i = static_cast<std::size_t>(r);
    auto device = std::make_unique<RehearsalDevice>(plan, Rank{r}, durations[i]);
    const RehearsalDevice& clock = *device;
    auto interpreter =
        Interpreter::create(plan, Rank{r}, {}, *transports[i], nullptr, std::move(device));
    if (!interpreter) {
      errors[i] = to_text(interpreter.error().diagnostics);
      return transports[i]->abort();
    }
    auto step = (*interpreter)->run_step(true);
    if (!step) {
      errors[i] = to_text(step.error().diagnostics);
      return transports[i]->abort();
    }
    CHECK((*interpreter)->slab_bytes() == 0);
    out.steps[i] = *step;
    out.ranks[i] = (*interpreter)->take_timeline();
    slipped[i] = clock.lateness().slipped;
  });
  for (const std::string& e : errors) REQUIRE_MESSAGE(e.empty(), e);
  for (Nanoseconds s : slipped) out.slipped += s;
  return out;
}

// Equal at both ends of a message and for all members of a group, as costs are: by tag and kind.
std::vector<std::vector<Nanoseconds>> random_durations(const Plan& plan, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<Nanoseconds>> by_program;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for (const Op& op : plan.ops_of(ProgramId{static_cast<int>(p)})) {
      if (by_program.size() <= p) by_program.emplace_back();
      by_program[p].push_back(is_communication(op.kind)      ? kMs
                              : op.kind == OpKind::host_wait ? 0
                              : op.calls.count > 5           ? (2 + random() % 6) * kMs
                                                             : kMs / 10);
    }
  std::vector<std::vector<Nanoseconds>> out;
  for (int r = 0; r < plan.header.mesh.world(); ++r)
    out.push_back(by_program[plan.program_of(Rank{r}).index()]);
  return out;
}

sim::SimResult predicted(const Plan& plan, const Scenario& s,
                         const std::vector<std::vector<Nanoseconds>>& durations) {
  auto cluster = sim::make_cluster(s.cluster, plan.header.mesh.world());
  REQUIRE(cluster.ok());
  cluster->spec.device.launch_overhead = 0;
  sim::ReplayDurations replay;
  for (const auto& table : durations) {
    replay.by_rank.emplace_back();
    for (Nanoseconds d : table) replay.by_rank.back().push_back(d * kPsPerNs);
  }
  sim::SimOptions options;
  options.replay = &replay;
  options.ranks = RankSelection::all;
  auto result = sim::simulate(plan, *cluster, options);
  REQUIRE(result.ok());
  return std::move(*result);
}

// What holds between the spans of a rank, to the nanosecond.
void check_spans(const Plan& plan, int rank, const Timeline& t,
                 const std::vector<Nanoseconds>& durations) {
  const Program& program = plan.programs[plan.program_of(Rank{rank}).index()];
  REQUIRE(t.spans.size() == program.num_ops);
  CHECK(t.calls.empty());
  std::map<StreamId, Nanoseconds> stream_end;
  for (std::size_t i = 0; i < program.num_ops; ++i) {
    const Span& s = t.spans[i];
    const Op& op = plan.op(s.op);
    CAPTURE(s.op.value);
    CHECK(s.op.value == program.first_op + static_cast<std::int64_t>(i));
    CHECK(s.issued <= s.ready);
    CHECK(s.ready <= s.started);
    CHECK(s.ended - s.started >= durations[i]);
    for (OpId w : plan.waits_of(op)) CHECK(t.spans[w.index() - program.first_op].ended <= s.ready);
    Nanoseconds& before = stream_end[op.stream];
    if (op.kind != OpKind::host_wait) CHECK(before <= s.ready);
    before = s.ended;
  }
}

}  // namespace

TEST_CASE("rehearsed steps: laws of spans, the plan's memory, the simulator's times") {
  const char* const kScenarios[] = {
      "model: {preset: llama-tiny}\ntraining: {micro_batch: 1, global_batch: 6}\n"
      "parallel: {pp: 4}\nschedule: 1f1b\n",
      "model: {preset: llama-tiny}\ntraining: {micro_batch: 1, global_batch: 8}\n"
      "parallel: {pp: 2, dp: 2}\nschedule: zbv\n",
      "model: {preset: deepseek-tiny}\ntraining: {micro_batch: 1, global_batch: 8}\n"
      "parallel: {pp: 2, dp: 2, ep: 2, zero: 2}\nschedule: gpipe\n",
      "model: {preset: gpt-tiny}\ntraining: {micro_batch: 2, global_batch: 8}\n"
      "parallel: {tp: 2, dp: 2, zero: 3, sequence_parallel: true}\nschedule: 1f1b\n"};
  unsigned seed = 1;
  for (const char* text : kScenarios) {
    CAPTURE(std::string(text));
    const Scenario s = scenario(text);
    const Plan plan = plan_of(s);
    const auto durations = random_durations(plan, seed++);
    const sim::SimResult simulated = predicted(plan, s, durations);
    const Nanoseconds expected = simulated.iteration_ps / kPsPerNs;
    const auto memory = sim::track_memory(plan);
    Rehearsed run;
    // On a busy machine the upper bound says little: then once more.
    for (int attempt = 0; attempt < 3; ++attempt) {
      run = rehearse(plan, durations);
      Nanoseconds first = run.steps[0].started, last_start = 0, last = 0;
      for (int r = 0; r < plan.header.mesh.world(); ++r) {
        const auto i = static_cast<std::size_t>(r);
        check_spans(plan, r, run.ranks[i], durations[i]);
        const PeakMemory& peak = run.ranks[i].peaks[0];
        const PeakMemory& planned = memory[plan.program_of(Rank{r}).index()].peak;
        CHECK(peak.total == planned.total);
        CHECK(peak.by_class == planned.by_class);
        first = std::min(first, run.steps[i].started);
        last_start = std::max(last_start, run.steps[i].started);
        for (const Span& span : run.ranks[i].spans) last = std::max(last, span.ended);
      }
      // Ends are maxima of sums of durations: no rank starts before `first`, none after
      // `last_start`, and a slip of the clock moves nothing by more than itself.
      CHECK(last - first >= expected);
      CHECK(last - last_start <= expected + run.slipped);
      MESSAGE("measured " << (last - last_start) / 1000 << " us, simulated " << expected / 1000
                          << " us, slips " << run.slipped / 1000 << " us");
      if (run.slipped * 20 < expected) break;
    }
  }
}

TEST_CASE("rehearsed steps: an aborted run ends, however long its ops are") {
  const Plan plan =
      plan_of(scenario("model: {preset: gpt-tiny}\ntraining: {micro_batch: 1, global_batch: 4}\n"
                       "parallel: {pp: 2}\n"));
  const Transports transports = make_transports(plan, {60'000 * kMs, {}, true, true});
  const Nanoseconds begun = now_ns();
  std::string code;
  on_threads(2, [&](int which) {
    if (which == 0) {
      sleep(100 * kMs);
      return transports[1]->abort();
    }
    // It copies its first labels for ten minutes, and waits for a message of rank 0.
    const std::size_t ops = plan.ops_of(plan.program_of(Rank{1})).size();
    auto interpreter =
        Interpreter::create(plan, Rank{1}, {}, *transports[1], nullptr,
                            std::make_unique<RehearsalDevice>(
                                plan, Rank{1}, std::vector<Nanoseconds>(ops, 600'000 * kMs)));
    REQUIRE(interpreter.ok());
    const auto step = (*interpreter)->run_step(true);
    REQUIRE(!step.ok());
    code = step.error().diagnostics[0].code;
  });
  CHECK(code == "E-EXEC-043");
  CHECK(now_ns() - begun < 20'000 * kMs);
}
