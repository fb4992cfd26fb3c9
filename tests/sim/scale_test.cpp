// Size: 1,024 devices in seconds and little memory. The time limits are ten times what a slow
// server core takes, so that only a change of order fails.
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <chrono>

#include "sim/simulate.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

TEST_CASE("scale: tp 8, pp 16, dp 8, 64 microbatches, 100,000 ops on 128 nodes") {
  PipelineShape s;
  s.tp = 8;
  s.dp = 8;
  s.pp = 16;
  s.microbatches = 64;
  s.layers = 12;
  s.message = 2048 * 12288;
  s.tp_elements = 2048 * 12288;
  s.gradient = 1 << 28;
  s.metrics = true;
  const Plan plan = make_pipeline(s, true);
  ClusterSpec spec = device_spec(128, 8, 1e-6);
  spec.device.launch_overhead = 4e-6;
  spec.library = CollectiveLibrary::nccl;
  const Cluster cluster = cluster_of(spec, 1024);
  const auto begin = std::chrono::steady_clock::now();
  const auto r = simulate(plan, cluster, {});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  REQUIRE(r.ok());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  MESSAGE(plan.ops.size() << " ops, " << r->simulated_events << " events, " << took.count()
                          << " s, " << usage.ru_maxrss / 1024 << " MiB");
  CHECK(r->simulated_ranks == 16);
  CHECK(r->timeline.spans.size() == plan.ops.size());
  CHECK(took.count() < 10);
}

}  // namespace
}  // namespace tandem::sim
