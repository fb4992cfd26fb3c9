// Speed of the simulator: the event queue (hold model: pop one, push one), fair rates, and a whole
// iteration on 1,024 devices. Built with TANDEM_BENCH.
#include <benchmark/benchmark.h>

#include <queue>

#include "sim/network/max_min.h"
#include "sim/simulate.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

// Increments as a simulation has them: few distinct ones, some far away.
struct Increments {
  std::uint64_t state = 88172645463325252ULL;
  Picoseconds next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    constexpr Picoseconds kSteps[] = {0, 4'000'000, 4'000'000, 1'250'000, 37'500'000, 900'000'000};
    return kSteps[state % 6] + (state % 16 == 0 ? static_cast<Picoseconds>(state % 1'000'000) : 0);
  }
};

void radix_queue(benchmark::State& state) {
  EventQueue q;
  Increments random;
  for (std::int64_t i = 0; i < state.range(0); ++i) q.push({random.next(), 0, 0});
  for (auto _ : state) {
    const Event e = q.pop();
    q.push({e.time + random.next(), e.what, 0});
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(radix_queue)->Arg(10'000)->Arg(1'000'000);

// The simple twin: a binary heap with sequence numbers.
void binary_heap(benchmark::State& state) {
  struct Entry {
    Picoseconds time;
    std::uint64_t sequence;
    bool operator<(const Entry& o) const {
      return time != o.time ? time > o.time : sequence > o.sequence;
    }
  };
  std::priority_queue<Entry> q;
  Increments random;
  std::uint64_t sequence = 0;
  for (std::int64_t i = 0; i < state.range(0); ++i) q.push({random.next(), sequence++});
  for (auto _ : state) {
    const Entry e = q.top();
    q.pop();
    q.push({e.time + random.next(), sequence++});
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(binary_heap)->Arg(10'000)->Arg(1'000'000);

// n flows on a tree of n / 4 NICs and a trunk.
void max_min(benchmark::State& state) {
  const auto n = static_cast<int>(state.range(0));
  std::vector<double> capacity(static_cast<std::size_t>(n / 4 + 1), 50e9);
  capacity.back() = 400e9;
  std::vector<std::vector<PathEntry>> paths;
  std::vector<Demand> flows;
  for (int f = 0; f < n; ++f)
    paths.push_back({{LinkId{f % (n / 4)}}, {LinkId{(f * 7 + 1) % (n / 4)}}, {LinkId{n / 4}}});
  for (auto& p : paths) {
    if (p[0].link == p[1].link) p.erase(p.begin());
    flows.push_back({p, 1});
  }
  std::vector<double> rates(flows.size());
  MaxMinSolver solver;
  for (auto _ : state) {
    solver.solve(capacity, flows, rates);
    benchmark::DoNotOptimize(rates.data());
  }
  state.SetItemsProcessed(state.iterations() * n);
}
BENCHMARK(max_min)->Arg(16)->Arg(1024);

void iteration(benchmark::State& state) {
  PipelineShape s;
  s.tp = 8;
  s.dp = 8;
  s.pp = 16;
  s.microbatches = 64;
  s.layers = 12;
  s.message = s.tp_elements = 2048 * 12288;
  s.gradient = 1 << 28;
  s.metrics = true;
  const Plan plan = make_pipeline(s, true);
  const Cluster cluster = cluster_of(device_spec(128, 8, 1e-6), 1024);
  SimOptions options;
  options.fold = state.range(0) != 0;
  options.fidelity = Fidelity::flow;
  std::uint64_t events = 0;
  for (auto _ : state) {
    const auto r = simulate(plan, cluster, options);
    events = r.ok() ? r->simulated_events : 0;
  }
  state.counters["ops"] = static_cast<double>(plan.ops.size());
  state.counters["events"] = static_cast<double>(events);
}
BENCHMARK(iteration)->Arg(1)->Arg(0)->Unit(benchmark::kMillisecond)->Iterations(1);

}  // namespace
}  // namespace tandem::sim

BENCHMARK_MAIN();
