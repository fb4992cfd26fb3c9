// Folding: which ranks are alike, and that folding does not change a bit of the answer.
#include "sim/engine/fold.h"

#include <doctest/doctest.h>

#include "sim/simulate.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

PipelineShape shape_of(int tp, int dp, int pp) {
  PipelineShape s;
  s.tp = tp;
  s.dp = dp;
  s.pp = pp;
  s.microbatches = 6;
  s.layers = 2;
  s.message = 123'457;
  s.tp_elements = 54'321;
  s.gradient = 1'234'567;
  s.metrics = true;
  return s;
}

void check_same(const Plan& plan, const ClusterSpec& spec, Fidelity fidelity) {
  const Cluster cluster = cluster_of(spec, plan.header.mesh.world());
  SimOptions o;
  o.ranks = RankSelection::all;
  o.fidelity = fidelity;
  o.steps = 2;
  const auto folded = simulate(plan, cluster, o);
  o.fold = false;
  const auto unfolded = simulate(plan, cluster, o);
  REQUIRE(folded.ok());
  REQUIRE(unfolded.ok());
  CHECK(unfolded->simulated_ranks == cluster.world);
  REQUIRE(folded->timeline.spans.size() == unfolded->timeline.spans.size());
  std::size_t different = 0;
  for (std::size_t i = 0; i < folded->timeline.spans.size(); ++i) {
    const Span &a = folded->timeline.spans[i], &b = unfolded->timeline.spans[i];
    different += !(a.op == b.op && a.rank == b.rank && a.issued == b.issued && a.ready == b.ready &&
                   a.started == b.started && a.ended == b.ended);
  }
  CHECK(different == 0);
  CHECK(folded->iteration_ps == unfolded->iteration_ps);
  CHECK(folded->bubble == doctest::Approx(unfolded->bubble));
  CHECK(folded->exposed_comm_s == doctest::Approx(unfolded->exposed_comm_s));
}

TEST_CASE("fold: the same times as without, bit for bit, where the case is symmetric") {
  for (Fidelity f : {Fidelity::automatic, Fidelity::flow, Fidelity::closed_form}) {
    CAPTURE(static_cast<int>(f));
    check_same(make_pipeline(shape_of(2, 2, 4)), device_spec(2, 8, 1e-6), f);
    check_same(make_pipeline(shape_of(8, 2, 2)), device_spec(4, 8, 1e-6), f);
    check_same(make_pipeline(shape_of(2, 4, 2)), device_spec(2, 8, 1e-6), f);
    ClusterSpec few_nics = device_spec(4, 4, 1e-6);
    few_nics.network[1].nics_per_node = 1;
    check_same(make_pipeline(shape_of(4, 2, 2)), few_nics, f);
    ClusterSpec leaf = device_spec(8, 2, 1e-6);
    leaf.network[1].rail_optimised = false;
    leaf.network[1].oversubscription = 3;
    check_same(make_pipeline(shape_of(2, 4, 2)), leaf, f);
    ClusterSpec nccl = device_spec(2, 8, 1e-6);
    nccl.library = CollectiveLibrary::nccl;
    check_same(make_pipeline(shape_of(2, 2, 4)), nccl, f);
  }
  check_same(make_pipeline(shape_of(2, 2, 2), true), local_spec(3), Fidelity::automatic);
}

TEST_CASE("fold: one class a program; a slow device makes its neighbours different") {
  const Plan plan = make_pipeline(shape_of(2, 4, 2));
  const Folding f = fold_ranks(plan, cluster_of(device_spec(2, 8), 16), true);
  CHECK(f.representative == std::vector{Rank{0}, Rank{8}});
  CHECK(f.multiplicity == std::vector{8, 8});
  for (const GroupClass& g : f.groups) CHECK(g.groups.size() * g.groups[0].size() >= 8);

  // Rank 3 slow (tp 1, dp 1, stage 0): ranks 0..7 fall apart by tp and dp partners of rank 3.
  ClusterSpec slow = device_spec(2, 8);
  slow.slow_devices = {{3, 1.5}};
  const Folding s = fold_ranks(plan, cluster_of(slow, 16), true);
  CHECK(s.class_of[3] != s.class_of[2]);
  CHECK(s.class_of[0] != s.class_of[1]);  // rank 1 is in rank 3's dp group
  CHECK(s.class_of[1] == s.class_of[5]);
  CHECK(s.class_of[0] == s.class_of[4]);
  CHECK(s.class_of[11] != s.class_of[10]);  // the stage behind rank 3
  CHECK(s.representative.size() == 8);
  check_same(plan, slow, Fidelity::automatic);
}

TEST_CASE("fold: groups that lie differently are not folded together") {
  // tp 3 on nodes of 8: tp groups 0 1 2, 3 4 5, 6 7 8, ...: the third spans two nodes.
  const Plan plan = make_pipeline(shape_of(3, 4, 1));
  const Folding f = fold_ranks(plan, cluster_of(device_spec(2, 8), 12), true);
  CHECK(f.class_of[0] != f.class_of[6]);
  check_same(plan, device_spec(2, 8, 1e-6), Fidelity::flow);
  // A ring inside the node: places differ, nothing is folded.
  ClusterSpec ring = device_spec(1, 8);
  ring.network[0].kind = "ring";
  CHECK(fold_ranks(make_pipeline(shape_of(2, 2, 2)), cluster_of(ring, 8), true)
            .representative.size() == 8);
}

}  // namespace
}  // namespace tandem::sim
