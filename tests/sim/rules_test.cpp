// The rules of the engine, one by one, on plans of a few ops.
#include <doctest/doctest.h>

#include "sim/simulate.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

SimResult run(const Plan& plan, const ClusterSpec& spec, SimOptions o = {}) {
  o.ranks = RankSelection::all;
  return std::move(simulate(plan, cluster_of(spec, plan.header.mesh.world()), o).value());
}
const Span& span(const SimResult& r, int rank, int op) {
  for (const Span& s : r.timeline.spans)
    if (s.rank == rank && s.op.value == op) return s;
  FAIL("no span of rank " << rank << " op " << op);
  return r.timeline.spans[0];
}
Picoseconds us(double x) { return static_cast<Picoseconds>(x * 1e6); }
bool near(Picoseconds a, Picoseconds b) { return std::abs(a - b) <= 5; }

// Streams overlap; waits order them. gelu(1000) takes 8 us.
TEST_CASE("engine: streams run side by side, waits order them") {
  PlanMaker make(2, 1, 1);
  make.begin_program();
  const OpId a = make.compute({make.gelu(1000)});
  make.communicate(OpKind::all_reduce, "tp", 250'000, {a});  // 1 MB: 2 * 0.5 MB / 100 GB/s = 10 us
  make.compute({make.gelu(500)});
  make.compute({make.gelu(1000)}, {OpId{1}});
  ClusterSpec spec = device_spec(1, 2);
  spec.all_reduce = "ring";
  const SimResult r = run(make.plan, spec);
  CHECK(near(span(r, 0, 1).started, us(8)));
  CHECK(near(span(r, 0, 1).ended, us(18)));
  CHECK(near(span(r, 0, 2).started, us(8)));
  CHECK(near(span(r, 0, 2).ended, us(12)));
  CHECK(near(span(r, 0, 3).started, us(18)));
  CHECK(near(r.iteration_ps, us(26)));
  CHECK(near(r.ranks[0].transfer[0], us(6)));  // 12 .. 18; before that it is hidden
}

// Rendezvous: a send is ready at once but starts when its receiver has come.
TEST_CASE("engine: a message starts when both ends are exposed") {
  PlanMaker make(1, 1, 2);
  make.begin_program();
  make.communicate(OpKind::send, "edge:0->1", 250'000, {}, 1);
  make.begin_program();
  const OpId c = make.compute({make.gelu(1000)});
  make.communicate(OpKind::recv, "edge:0->1", 250'000, {c}, 0);
  const SimResult r = run(make.plan, device_spec(1, 2));
  CHECK(span(r, 0, 0).ready == 0);
  CHECK(near(span(r, 0, 0).started, us(8)));
  CHECK(span(r, 0, 0).ended == span(r, 1, 2).ended);
  CHECK(near(span(r, 0, 0).ended, us(18)));
  CHECK(near(r.ranks[0].waiting[0], us(8)));
}

// Threads that sleep. wake 10 us, issue 0; gelu(1000) takes 8 us.
//   op 0   issued at 0 to a stream that sleeps: starts at 10, ends at 18
//   op 1   issued at 0 as well, behind op 0: starts at 18, ends at 26, frees
//   op 2   allocates: issued at 26 by the thread that has freed, to its own stream: 26 to 34
//   op 3   of another stream, waits for op 2: starts at 34 + 10
TEST_CASE("engine: a stream that sleeps goes on after the wake-up; one that has freed does not") {
  PlanMaker make(1, 1, 1);
  make.begin_program();
  const BufferId a = make.buffer(0, BufferClass::activation, 4096);
  const BufferId b = make.buffer(0, BufferClass::activation, 4096);
  make.compute({make.gelu(1000)});
  make.allocates({a});
  make.compute({make.gelu(1000)});
  make.frees({a});
  const OpId last = make.compute({make.gelu(1000)});
  make.allocates({b}).frees({b});
  make.copy(100, {last});
  Calibration c;
  c.wakes = {{1, 10e-6}};
  SimOptions o;
  o.calibration = &c;
  const SimResult r = run(make.plan, local_spec(1), o);
  CHECK(near(span(r, 0, 0).started, us(10)));
  CHECK(near(span(r, 0, 1).started, us(18)));
  CHECK(near(span(r, 0, 2).issued, us(26)));
  CHECK(near(span(r, 0, 2).started, us(26)));
  CHECK(near(span(r, 0, 3).ready, us(34)));
  CHECK(near(span(r, 0, 3).started, us(44)));
}

// The host is freed by another stream's op: its own stream's thread has to wake up.
//   op 0   a copy that frees: 10 to 10 + d
//   op 1   allocates: issued at 10 + d, starts 10 later
TEST_CASE("engine: an op that another stream's thread issues waits for the wake-up") {
  PlanMaker make(1, 1, 1);
  make.begin_program();
  const BufferId a = make.buffer(0, BufferClass::batch, 800);
  const BufferId b = make.buffer(0, BufferClass::activation, 4096);
  const OpId copy = make.copy(100);
  make.allocates({a}).frees({a});
  make.compute({make.gelu(1000)});
  make.allocates({b}).frees({b});
  Calibration c;
  c.wakes = {{1, 10e-6}};
  SimOptions o;
  o.calibration = &c;
  const SimResult r = run(make.plan, local_spec(1), o);
  CHECK(near(span(r, 0, copy.value).started, us(10)));
  CHECK(span(r, 0, 1).issued == span(r, 0, copy.value).ended);
  CHECK(near(span(r, 0, 1).started, span(r, 0, 1).issued + us(10)));
}

// The host of a device issues every 4 us and runs ahead of the device.
TEST_CASE("engine: launch overhead, and a host that runs ahead") {
  PlanMaker make(1, 1, 1);
  make.begin_program();
  for (int i = 0; i < 3; ++i) make.compute({make.gelu(i == 0 ? 2000 : 250)});
  ClusterSpec spec = device_spec(1, 1);
  spec.device.launch_overhead = 4e-6;
  const SimResult r = run(make.plan, spec);
  CHECK(near(span(r, 0, 0).started, us(4)));
  CHECK(near(span(r, 0, 1).issued, us(8)));
  CHECK(near(span(r, 0, 1).started, us(20)));  // behind the first: its launch is hidden
  CHECK(near(span(r, 0, 2).ended, us(24)));
}

// host_wait: nothing later is issued before what it waits for has ended.
TEST_CASE("engine: host_wait holds the issuing thread") {
  PlanMaker make(1, 1, 1);
  make.begin_program();
  const OpId a = make.compute({make.gelu(1000)});
  const OpId h = make.host_wait({a});
  make.compute({make.gelu(1000)});
  ClusterSpec spec = device_spec(1, 1);
  spec.device.launch_overhead = 1e-6;
  const SimResult r = run(make.plan, spec);
  CHECK(near(span(r, 0, h.value).ended, us(9)));
  CHECK(near(span(r, 0, 2).issued, us(10)));
  CHECK(near(r.iteration_ps, us(18)));
}

// Local: op 2 allocates, so it is issued when op 1, which frees, has ended; without the free it
// runs beside it. (Two streams: compute and copy_in; copies take 8 B / (0.5 GB/s).)
TEST_CASE("engine: on a local host an allocating op waits for the earlier frees") {
  for (bool frees : {false, true}) {
    PlanMaker make(1, 1, 1);
    make.begin_program();
    const BufferId a = make.buffer(0, BufferClass::activation, 400);
    const BufferId b = make.buffer(0, BufferClass::batch, 800);
    make.compute({make.gelu(10)});
    make.allocates({a});
    make.compute({make.gelu(1000)});
    if (frees) make.frees({a});
    const OpId copy = make.copy(100);
    make.allocates({b});
    CAPTURE(frees);
    const SimResult r = run(make.plan, local_spec(2));
    CHECK(near(span(r, 0, copy.value).issued, frees ? span(r, 0, 1).ended : 0));
    const SimResult device = run(make.plan, device_spec(1, 1));
    CHECK(span(device, 0, copy.value).issued == 0);  // stream order frees without waiting
  }
}

// 4 ranks, 2 cores, 8 us of work each: 16 us. With 4 cores 8 us.
TEST_CASE("engine: four ranks on two cores take twice as long") {
  PlanMaker make(4, 1, 1);
  make.begin_program();
  make.compute({make.gelu(1000)});
  for (bool fold : {true, false}) {
    SimOptions o;
    o.fold = fold;
    CHECK(near(run(make.plan, local_spec(2), o).iteration_ps, us(16)));
    CHECK(near(run(make.plan, local_spec(4), o).iteration_ps, us(8)));
    CHECK(near(run(make.plan, local_spec(3), o).iteration_ps, us(32.0 / 3)));
  }
}

// A local all-reduce of 1 MB of 2 ranks: direct, 1 MB each way at 1 GB/s = 1 ms of CPU a member;
// on one core the two members take 2 ms. Calibrated: alpha + bytes / beta, a share of it CPU.
TEST_CASE("engine: local communication takes its share of the cores") {
  PlanMaker make(2, 1, 1);
  make.begin_program();
  make.communicate(OpKind::all_reduce, "tp", 250'000);
  CHECK(near(run(make.plan, local_spec(2)).iteration_ps, us(1000)));
  CHECK(near(run(make.plan, local_spec(1)).iteration_ps, us(2000)));
  Calibration c;
  c.machine.cores = 2;
  c.transports = {{"all_reduce", 2, 0.25, {{0, 100e-6, 1e9}}}};  // 1.1 ms, 0.275 ms of CPU
  SimOptions o;
  o.calibration = &c;
  CHECK(near(run(make.plan, local_spec(2), o).iteration_ps, us(1100)));
  CHECK(near(run(make.plan, local_spec(1), o).iteration_ps, us(825 + 550)));
}

// Rank 2 is twice as slow; the others wait for it in the all-reduce.
TEST_CASE("engine: a slow device holds its group back") {
  PlanMaker make(1, 4, 1);
  make.begin_program();
  const OpId a = make.compute({make.gelu(1000)});
  make.communicate(OpKind::all_reduce, "dp", 0, {a});
  ClusterSpec spec = device_spec(1, 4);
  spec.slow_devices = {{2, 2.0}};
  const SimResult r = run(make.plan, spec);
  CHECK(r.simulated_ranks == 2);
  CHECK(near(span(r, 2, 0).ended, us(16)));
  CHECK(near(span(r, 0, 0).ended, us(8)));
  CHECK(near(span(r, 0, 1).started, us(16)));
}

// Two messages over one NIC share it; closed_form does not see that, flow and auto do.
TEST_CASE("engine: contention on a shared NIC") {
  PlanMaker make(2, 1, 2);
  make.begin_program();
  make.communicate(OpKind::send, "edge:0->1", 250'000, {}, 1);
  make.begin_program();
  make.communicate(OpKind::recv, "edge:0->1", 250'000, {}, 0);
  ClusterSpec spec = device_spec(2, 2);
  spec.network[1].nics_per_node = 1;
  for (bool fold : {true, false}) {
    SimOptions o;
    o.fold = fold;
    CHECK(near(run(make.plan, spec, o).iteration_ps, us(200)));  // 2 MB at 10 GB/s
    o.fidelity = Fidelity::flow;
    CHECK(near(run(make.plan, spec, o).iteration_ps, us(200)));
    o.fidelity = Fidelity::closed_form;
    CHECK(near(run(make.plan, spec, o).iteration_ps, us(100)));
  }
}

// nccl: the second all-reduce was issued after one of another communicator, so it may start
// once the first is exposed, not before.
TEST_CASE("engine: under nccl communications are exposed in issue order") {
  for (CollectiveLibrary library : {CollectiveLibrary::host, CollectiveLibrary::nccl}) {
    PlanMaker make(2, 1, 1);
    make.begin_program();
    const OpId a = make.compute({make.gelu(1000)});
    make.communicate(OpKind::all_reduce, "tp", 0, {a});
    make.communicate(OpKind::all_reduce, "world", 0);
    ClusterSpec spec = device_spec(1, 2);
    spec.library = library;
    const SimResult r = run(make.plan, spec);
    CHECK(near(span(r, 0, 2).started, library == CollectiveLibrary::nccl ? us(8) : 0));
  }
}

// An exchange in one group on one stream: neither send waits for the other (ungrouped it is stuck).
TEST_CASE("engine: grouped calls are exposed together; ungrouped crossing sends are stuck") {
  for (bool grouped : {true, false}) {
    PlanMaker make(1, 1, 2);
    for (int p = 0; p < 2; ++p) {
      make.begin_program();
      make.communicate(OpKind::send, "edge:0->1", 250, {}, 1 - p);
      make.communicate(OpKind::recv, "edge:0->1", 250, {}, 1 - p);
      make.compute({make.gelu(10)}, {OpId{static_cast<int>(make.plan.ops.size()) - 1}});
    }
    if (grouped)
      for (Op& op : make.plan.ops) op.group = 3;
    const auto r = simulate(make.plan, cluster_of(device_spec(1, 2), 2), {});
    CHECK(r.ok() == grouped);
    if (grouped) continue;
    CHECK(r.error().diagnostics[0].code == "E-PLAN-081");
    CHECK(r.error().diagnostics[0].found.find("rank 0 waits in op 0") != std::string::npos);
  }
}

TEST_CASE("engine: replay takes measured durations, each member its own end") {
  PlanMaker make(2, 1, 1);
  make.begin_program();
  const OpId a = make.compute({make.gelu(1000)});
  const OpId c = make.communicate(OpKind::all_reduce, "tp", 250'000, {a});
  ReplayDurations d;
  d.set(make.plan, Rank{0}, a, us(5));
  d.set(make.plan, Rank{1}, a, us(9));
  d.set(make.plan, Rank{0}, c, us(3));
  d.set(make.plan, Rank{1}, c, us(4));
  SimOptions o;
  o.replay = &d;
  for (const ClusterSpec& spec : {device_spec(1, 2), local_spec(1)}) {
    const SimResult r = run(make.plan, spec, o);
    CHECK(span(r, 0, a.value).ended == us(5));
    CHECK(span(r, 0, c.value).started == us(9));
    CHECK(span(r, 0, c.value).ended == us(12));
    CHECK(span(r, 1, c.value).ended == us(13));
    // What was simulated, replayed, is the same again.
    const ReplayDurations again = replay_of(make.plan, r.timeline);
    SimOptions p;
    p.replay = &again;
    CHECK(run(make.plan, spec, p).iteration_ps == us(13));
  }
}

TEST_CASE("engine: what it cannot do is refused") {
  PlanMaker make(1, 1, 1);
  make.begin_program();
  make.compute({make.gelu(10)});
  const Cluster cluster = cluster_of(device_spec(1, 1), 1);
  SimOptions o;
  o.fidelity = Fidelity::message;
  const auto message = simulate(make.plan, cluster, o);
  REQUIRE_FALSE(message.ok());
  CHECK(message.error().diagnostics[0].code == "E-SCEN-020");
  CHECK(message.error().failure == Failure::infeasible);
}

}  // namespace
}  // namespace tandem::sim
