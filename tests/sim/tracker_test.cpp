// Live bytes counted by hand.
#include "sim/memory/tracker.h"

#include <doctest/doctest.h>

#include "sim/simulate.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

// param 1000 B for the run, an alias of it (0 B), and
//   op 0 allocates a 400, b 800           live 2200
//   op 1 allocates c 200, frees a         live 2400, then 2000
//   op 2 allocates d 600, frees b c d     live 2600: the peak, then 1000
Plan three_ops() {
  PlanMaker make(1, 1, 1);
  make.begin_program();
  const BufferId param = make.buffer(0, BufferClass::param, 1000);
  make.plan.buffers.push_back(make.plan.buffer(param));
  make.plan.buffers.back().alias_of = param;
  const BufferId a = make.buffer(0, BufferClass::activation, 400);
  const BufferId b = make.buffer(0, BufferClass::saved_input, 800);
  const BufferId c = make.buffer(0, BufferClass::activation, 200);
  const BufferId d = make.buffer(0, BufferClass::scratch, 600);
  const KernelId k = make.gelu(10);
  make.compute({k});
  make.allocates({a, b});
  make.compute({k});
  make.allocates({c}).frees({a});
  make.compute({k});
  make.allocates({d}).frees({b, c, d});
  return make.plan;
}

TEST_CASE("memory: live bytes by class, counted by hand") {
  const Plan plan = three_ops();
  const ProgramMemory m = track_memory(plan)[0];
  const auto at = [](const auto& bytes, BufferClass c) {
    return bytes[static_cast<std::size_t>(c)];
  };
  CHECK(at(m.persistent, BufferClass::param) == 1000);
  CHECK(m.peak.total == 2600);
  CHECK(m.peak.op_at_peak == OpId{2});
  CHECK(at(m.peak.at_peak, BufferClass::scratch) == 600);
  CHECK(at(m.peak.at_peak, BufferClass::activation) == 200);
  CHECK(at(m.peak.by_class, BufferClass::activation) == 600);
  CHECK(m.needed == 2600);
  CHECK(m.kernel_scratch == 0);
}

TEST_CASE("memory: the samples of the timeline say the same, on devices and on a local host") {
  const Plan plan = three_ops();
  for (const ClusterSpec& spec : {device_spec(1, 1), local_spec(1)}) {
    const auto result = simulate(plan, cluster_of(spec, 1), {});
    REQUIRE(result.ok());
    Bytes most = 0, last = 0;
    for (const MemorySample& s : result->timeline.memory) {
      last = 0;
      for (Bytes b : s.live) last += b;
      most = std::max(most, last);
    }
    CHECK(most == 2600);
    CHECK(last == 1000);  // at the end only what lives for the run
    REQUIRE(result->timeline.peaks.size() == 1);
    CHECK(result->timeline.peaks[0].total == 2600);
  }
}

TEST_CASE("memory: a kernel's own scratch counts against the device, not among the buffers") {
  PlanMaker make(1, 1, 1);
  make.begin_program();
  const Kernel k = {KernelKind::attention_fwd, {1, 2, 8, 4}, kCausal | kFlash, {}, {}, {}};
  make.compute({make.kernel(k)});
  const BufferId out = make.buffer(0, BufferClass::activation, 256);
  make.allocates({out}).frees({out});
  const ProgramMemory m = track_memory(make.plan)[0];
  const Bytes hidden = hidden_scratch(k, {});
  CHECK(hidden > 0);
  CHECK(m.peak.total == 256);
  CHECK(m.kernel_scratch == hidden);
  CHECK(m.needed == 256 + hidden);
}

TEST_CASE("memory: over the capacity is infeasible, with op, time and classes") {
  ClusterSpec spec = device_spec(1, 1);
  spec.device.memory = 2599;
  const Plan plan = three_ops();
  const auto result = simulate(plan, cluster_of(spec, 1), {});
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().failure == Failure::infeasible);
  const Diagnostic& d = result.error().diagnostics[0];
  CHECK(d.code == "E-PLAN-080");
  for (const char* part : {"2600 B", "op 2", "param", "saved_input", "scratch", "38.5 %"}) {
    CAPTURE(part);
    CHECK(d.found.find(part) != std::string::npos);
  }
  CHECK(d.expected.find("2599") != std::string::npos);
  spec.device.memory = 2600;
  CHECK(simulate(plan, cluster_of(spec, 1), {}).ok());
}

}  // namespace
}  // namespace tandem::sim
