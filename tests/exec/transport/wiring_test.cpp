// Goal    the launcher and every rank agree about the socket pairs, and there are no more than the
//         step programs use.
// Method  plans by hand, counts by the arithmetic of wiring.h.
#include "exec/transport/wiring.h"

#include <doctest/doctest.h>

#include "tests/exec/transport/plans.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

const AlgorithmSetting kDeterministic;
AlgorithmSetting wanted(CollectiveAlgorithm a) { return {true, a}; }

// tp 2, dp 2, pp 2 as in the example plan: tp, dp, emb, world, two edges.
Plan mesh_plan() {
  Plan plan;
  plan.header.mesh.size = {2, 1, 2, 2};
  plan.header.stage_rank = {0, 1};
  const auto comm = [&](const char* name, std::initializer_list<Axis> axes, int first, int second,
                        int size) {
    Communicator c;
    c.name = add_name(plan, name);
    for (Axis a : axes) c.axes.add(a);
    c.pair_first = first, c.pair_second = second, c.size = size;
    plan.communicators.push_back(c);
  };
  comm("tp", {Axis::tp}, -1, -1, 2);
  comm("dp", {Axis::dp}, -1, -1, 2);
  comm("emb", {Axis::pp}, 0, 1, 2);
  comm("world", {Axis::tp, Axis::dp, Axis::pp}, -1, -1, 8);
  comm("edge:0->1", {Axis::pp}, 0, 1, 2);
  comm("edge:1->0", {Axis::pp}, 1, 0, 2);
  for (int p = 0; p < 2; ++p) {
    plan.programs.push_back({static_cast<std::uint32_t>(plan.ops.size()), 6});
    for (int c = 0; c < 4; ++c)
      plan.ops.push_back(make_op({OpKind::all_reduce, 8, DType::f64}, CommId{c}));
    plan.ops.push_back(make_op({p == 0 ? OpKind::send : OpKind::recv, 8}, CommId{4}));
    plan.ops.push_back(make_op({p == 1 ? OpKind::send : OpKind::recv, 8}, CommId{5}));
    for (int k = 1; k <= 2; ++k)
      plan.ops[plan.ops.size() - static_cast<std::size_t>(k)].peer = 1 - p;
  }
  return plan;
}

}  // namespace

TEST_CASE("wiring: one pair for each two members that exchange messages, by algorithm") {
  const Plan plan = group_plan(8, {{OpKind::all_reduce, 1000}});
  CHECK(wires_of(plan, kDeterministic).size() == 28);  // 8 * 7 / 2
  CHECK(wires_of(plan, wanted(CollectiveAlgorithm::ring)).size() == 8);
  CHECK(wires_of(plan, wanted(CollectiveAlgorithm::tree)).size() == 7);
  CHECK(wires_of(plan, wanted(CollectiveAlgorithm::halving_doubling)).size() == 12);  // 8 * 3 / 2
  CHECK(wires_of(group_plan(2, {{OpKind::all_reduce, 1}}), kDeterministic) ==
        std::vector<Wire>{{CommId{0}, Rank{0}, Rank{1}}});
  CHECK(wires_of(group_plan(8, {{OpKind::shift, 1}}), kDeterministic).size() == 8);
  CHECK(wires_of(group_plan(8, {{OpKind::all_to_all, 8}}), kDeterministic).size() == 28);
  CHECK(wires_of(group_plan(8, {}), kDeterministic).empty());
}

TEST_CASE("wiring: a mesh has the pairs of the header's example, in a fixed order") {
  const Plan plan = mesh_plan();
  const std::vector<Wire> wires = wires_of(plan, kDeterministic);
  REQUIRE(wires.size() == 48);  // 4 + 4 + 4 + 28 + 4 + 4
  CHECK(wires[0] == Wire{CommId{0}, Rank{0}, Rank{1}});
  CHECK(wires[1] == Wire{CommId{0}, Rank{2}, Rank{3}});
  CHECK(wires[4] == Wire{CommId{1}, Rank{0}, Rank{2}});
  CHECK(wires[8] == Wire{CommId{2}, Rank{0}, Rank{4}});
  CHECK(wires[40] == Wire{CommId{4}, Rank{0}, Rank{4}});
  CHECK(wires[44] == Wire{CommId{5}, Rank{0}, Rank{4}});  // the pair's order does not matter
  std::size_t ends = 0;
  for (int r = 0; r < 8; ++r) {
    const std::vector<Wire> own = wires_of_rank(wires, Rank{r});
    CHECK(own.size() == 12);  // tp 1, dp 1, emb 1, world 7, edges 2
    ends += own.size();
    for (std::size_t i = 1; i < own.size(); ++i) CHECK(own[i - 1].comm <= own[i].comm);
  }
  CHECK(ends == 2 * wires.size());
}

TEST_CASE("wiring: ranks that run different programs share the pairs that either needs") {
  Plan plan = edge_plan({{OpKind::send, 10}});
  CHECK(wires_of(plan, kDeterministic) == std::vector<Wire>{{CommId{0}, Rank{0}, Rank{1}}});
}

TEST_CASE("E-EXEC-046: too many pairs for the limit on open files, with the arithmetic") {
  const auto wires = wires_of(group_plan(64, {{OpKind::all_reduce, 1}}), kDeterministic);
  const DescriptorNeeds needs = descriptor_needs(wires);
  CHECK(needs.launcher == 64 * 63 + kOtherDescriptors);
  CHECK(needs.rank == 63 + kOtherDescriptors);
  CHECK(check_descriptors(wires, 4096).ok());
  CHECK(check_descriptors(wires, needs.launcher).ok());
  CHECK(check_descriptors(wires, needs.launcher, 1).ok() == false);
  const Status refused = check_descriptors(wires, 1024);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().failure == Failure::infeasible);
  const Diagnostic& d = refused.error().diagnostics[0];
  CHECK(d.code == "E-EXEC-046");
  CHECK(d.found ==
        "2016 socket pairs: 4096 descriptors at the launcher, 127 at a rank; the limit is 1024");
  CHECK(d.hint.find("ulimit -n 4096") == 0);
}
