// Goal    durations_alone() are what the engine charges an op for when nothing else is in its way.
// Oracle  the engine itself: where ranks share no core and no link, every op of its timeline lasts
// as
//         long as its duration; and a replay of the durations is the same step.
#include "sim/durations.h"

#include <doctest/doctest.h>

#include "tests/common/plan/plan_of.h"

using namespace tandem;
using namespace tandem::sim;

namespace {

struct Simulated {
  Plan plan;
  SimResult result;
  ReplayDurations alone;
};

Simulated simulated(const std::string& text) {
  const Scenario s = scenario(text);
  Simulated out{plan_of(s), {}, {}};
  const auto cluster = make_cluster(s.cluster, out.plan.header.mesh.world());
  REQUIRE(cluster.ok());
  SimOptions options;
  options.fold = false;
  options.fidelity = Fidelity::closed_form;  // no link is shared
  options.ranks = RankSelection::all;
  options.check_capacity = false;
  auto result = simulate(out.plan, *cluster, options);
  REQUIRE(result.ok());
  out.result = std::move(*result);
  auto alone = durations_alone(out.plan, *cluster, options);
  REQUIRE(alone.ok());
  out.alone = std::move(*alone);
  // The same step again, from the durations alone.
  options.replay = &out.alone;
  const auto replayed = simulate(out.plan, *cluster, options);
  REQUIRE(replayed.ok());
  CHECK(replayed->iteration_ps == out.result.iteration_ps);
  return out;
}

void check_spans(const Simulated& s) {
  CHECK(!s.result.timeline.spans.empty());
  for (const Span& span : s.result.timeline.spans) {
    const Program& program = s.plan.programs[s.plan.program_of(Rank{span.rank}).index()];
    CAPTURE(span.op.value);
    CHECK(s.alone.find(Rank{span.rank}, span.op.index() - program.first_op) ==
          span.ended - span.started);
  }
}

}  // namespace

TEST_CASE("durations: a pipeline of GPUs, whose messages share no link") {
  check_spans(
      simulated("model: {preset: llama-8b, layers: 4}\n"
                "training: {precision: bf16, sequence: 512, micro_batch: 1, global_batch: 8}\n"
                "parallel: {pp: 4}\nschedule: zb_h1\n"
                "cluster: {preset: dgx-h100, devices_per_node: 4}\n"));
}

TEST_CASE("durations: tensor parallel groups of GPUs; a slow one takes longer by its factor") {
  const std::string text =
      "model: {preset: llama-8b, layers: 2}\n"
      "training: {precision: bf16, sequence: 512, micro_batch: 1, global_batch: 2}\n"
      "parallel: {tp: 2}\n"
      "cluster: {preset: dgx-h100, devices_per_node: 2";
  const Simulated even = simulated(text + "}\n");
  const Simulated uneven = simulated(text + ", slow_devices: [{rank: 1, factor: 1.5}]}\n");
  check_spans(even);
  check_spans(uneven);
  const auto ops = even.plan.ops_of(ProgramId{0});
  for (std::size_t i = 0; i < ops.size(); ++i) {
    if (ops[i].kind != OpKind::compute) continue;
    const auto before = even.alone.find(Rank{1}, i), after = uneven.alone.find(Rank{1}, i);
    CHECK(after == (before * 3 + 1) / 2);
    CHECK(even.alone.find(Rank{0}, i) == uneven.alone.find(Rank{0}, i));
  }
}

TEST_CASE("durations: ranks of this host with a core each") {
  check_spans(
      simulated("model: llama-tiny\ntraining: {micro_batch: 1, global_batch: 4}\n"
                "parallel: {pp: 2}\ncluster: {preset: local, cores_per_node: 16}\n"));
}

TEST_CASE("durations: shared cores do not make an op longer by itself") {
  const std::string text =
      "model: llama-tiny\ntraining: {micro_batch: 1, global_batch: 8}\nparallel: {dp: 4}\n"
      "cluster: {preset: local, cores_per_node: ";
  const Scenario one = scenario(text + "1}\n"), many = scenario(text + "64}\n");
  const Plan plan = plan_of(one);
  const auto a = durations_alone(plan, *make_cluster(one.cluster, 4), {});
  const auto b = durations_alone(plan, *make_cluster(many.cluster, 4), {});
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  CHECK(a->by_rank == b->by_rank);
  for (std::size_t i = 0; i < a->by_rank[0].size(); ++i)
    if (plan.ops_of(ProgramId{0})[i].kind == OpKind::host_wait) CHECK(a->by_rank[0][i] == 0);
}
