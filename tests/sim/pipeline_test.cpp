// Pipelines whose time is known in closed form.
#include <doctest/doctest.h>

#include "sim/network/alpha_beta.h"
#include "sim/simulate.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

struct Work {
  Picoseconds forward, backward;
};
Work work_of(const Plan& plan, const PipelineShape& s, const ClusterSpec& spec) {
  const ComputeCost cost = std::move(ComputeCost::create(plan, spec.device, nullptr).value());
  Work w{};
  for (std::size_t k = 0; k < plan.kernels.size(); ++k) {
    const Picoseconds t = cost.work(KernelId{static_cast<int>(k)}, false)[0];
    (plan.kernels[k].dims[0] == s.forward ? w.forward : w.backward) = t;
  }
  return w;
}

// Free communication: 1f1b and gpipe both take (m + p - 1)(F + B), idle (p - 1)(F + B) a rank.
TEST_CASE("pipeline: 1f1b and gpipe with free communication take (m + p - 1)(F + B) exactly") {
  for (bool gpipe : {false, true})
    for (int p : {1, 2, 3, 4, 7, 16})
      for (int m : {1, 2, 4, 8, 33}) {
        CAPTURE(gpipe);
        CAPTURE(p);
        CAPTURE(m);
        PipelineShape s;
        s.pp = p;
        s.microbatches = m;
        s.gpipe = gpipe;
        const Plan plan = make_pipeline(s);
        const ClusterSpec spec = device_spec(1, 16);
        const auto r = simulate(plan, cluster_of(spec, p), {});
        REQUIRE(r.ok());
        const Work w = work_of(plan, s, spec);
        CHECK(w.forward == doctest::Approx(8'000'000).epsilon(1e-6));
        CHECK(r->iteration_ps == (m + p - 1) * (w.forward + w.backward));
        CHECK(r->bubble == doctest::Approx(static_cast<double>(p - 1) / (m + p - 1)));
        CHECK(r->exposed_comm_s == 0);
        CHECK(r->source_share[static_cast<std::size_t>(CostSource::roofline)] == 1);
      }
}

// Two stages, one microbatch: F, message, F, B, message, B: the messages are exposed on both ranks.
TEST_CASE("pipeline: messages that nothing hides are added, and reported as exposed") {
  PipelineShape s;
  s.pp = 2;
  s.microbatches = 1;
  s.message = 25'000;  // 100 kB at 100 GB/s: 1 us, and 2 us of latency
  const Plan plan = make_pipeline(s);
  const ClusterSpec spec = device_spec(1, 2, 2e-6);
  const Cluster cluster = cluster_of(spec, 2);
  const Work w = work_of(plan, s, spec);
  const std::vector<Rank> ends = {Rank{0}, Rank{1}};
  const Picoseconds message = closed_form(cluster, OpKind::send, Algorithm::direct, 100'000, ends);
  CHECK(message == 3'000'000);
  for (Fidelity f : {Fidelity::automatic, Fidelity::closed_form, Fidelity::flow}) {
    SimOptions o;
    o.fidelity = f;
    const auto r = simulate(plan, cluster, o);
    REQUIRE(r.ok());
    CHECK(r->iteration_ps == 2 * (w.forward + w.backward + message));
    // Rank 0 waits for the gradient message only, rank 1 for the activation only; each sees its
    // own send at the end or not at all.
    CHECK(r->exposed_comm_s > 2e-6);
    CHECK(r->exposed_comm_s <= 6e-6);
  }
}

TEST_CASE("pipeline: the parts of each rank's step sum to the step") {
  PipelineShape s;
  s.tp = 2;
  s.dp = 2;
  s.pp = 4;
  s.message = 1000;
  s.tp_elements = 5000;
  s.gradient = 100'000;
  s.layers = 2;
  const auto r = simulate(make_pipeline(s), cluster_of(device_spec(2, 8, 1e-6), 16), {});
  REQUIRE(r.ok());
  REQUIRE(r->ranks.size() == 4);
  for (const RankSummary& rank : r->ranks) {
    CHECK(rank.multiplicity == 4);
    Picoseconds sum = rank.idle;
    for (Picoseconds p : rank.compute) sum += p;
    for (Picoseconds p : rank.transfer) sum += p;
    for (Picoseconds p : rank.waiting) sum += p;
    CHECK(sum == rank.step);
    CHECK(rank.idle >= 0);
    CHECK(rank.transfer[0] + rank.transfer[1] > 0);
  }
}

TEST_CASE("pipeline: spans join by op, in order, of one rank of each program; two runs are equal") {
  PipelineShape s;
  s.dp = 2;
  s.gradient = 1000;
  s.message = 1000;
  s.metrics = true;
  const Plan plan = make_pipeline(s);
  const Cluster cluster = cluster_of(device_spec(1, 8, 1e-6), 8);
  SimOptions o;
  o.steps = 3;
  const auto a = simulate(plan, cluster, o), b = simulate(plan, cluster, o);
  REQUIRE(a.ok());
  const Timeline& t = a->timeline;
  CHECK(t.clock == Clock::simulated_ps);
  CHECK(t.spans.size() == 3 * plan.ops.size());
  CHECK(t.steps.size() == 3 * 4);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < t.spans.size(); ++i) {
    const Span& x = t.spans[i];
    CHECK(x.issued <= x.ready);
    CHECK(x.ready <= x.started);
    CHECK(x.started <= x.ended);
    if (i > 0) {
      const Span& before = t.spans[i - 1];
      CHECK(std::tuple(before.step, before.rank, before.op) < std::tuple(x.step, x.rank, x.op));
    }
    const Span& y = b->timeline.spans[i];
    equal += x.op == y.op && x.rank == y.rank && x.step == y.step && x.issued == y.issued &&
             x.ready == y.ready && x.started == y.started && x.ended == y.ended;
  }
  CHECK(equal == t.spans.size());
  CHECK(a->iteration_ps == b->iteration_ps);
  // Steps do not overlap and take equally long: all ranks meet at the end.
  for (const StepMark& m : t.steps) {
    CHECK(m.started == m.step * a->iteration_ps);
    CHECK(m.ended == (m.step + 1) * a->iteration_ps);
  }
}

}  // namespace
}  // namespace tandem::sim
