// Speed of a plan of about a million ops, one thread: built, verified, printed, parsed, and what
// building needs of memory. Built with TANDEM_BENCH.
//
//   build/X/tests/bench/plan_bench --benchmark_min_time=0
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <sys/resource.h>

#include <cstdlib>

#include "common/plan/build.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"

namespace tandem {
namespace {

// GPT-3 175B: one stage a rank, and two stages of a V with split backwards and shared state.
constexpr const char* kScenarios[] = {
    "tandem: 1\nmodel: gpt3-175b\ntraining: {global_batch: 818, micro_batch: 1, precision: bf16}\n"
    "parallel: {tp: 8, pp: 16}\ncluster: dgx-h100 x 16\n",
    "tandem: 1\nmodel: gpt3-175b\ntraining: {global_batch: 820, micro_batch: 1, precision: bf16}\n"
    "parallel: {tp: 8, pp: 8, zero: 1}\nschedule: {kind: zbv}\ncluster: dgx-h100 x 8\n"};

template <class T>
T or_exit(Result<T> r) {
  if (r) return std::move(*r);
  std::fprintf(stderr, "%s\n", r.error().diagnostics.front().title.c_str());
  std::exit(1);
}
Scenario scenario(const benchmark::State& state) {
  return or_exit(read_scenario_text("bench.yaml", kScenarios[state.range(0)], {}));
}
double gigabytes_now() {
  return static_cast<double>(::mallinfo2().uordblks + ::mallinfo2().hblkhd) * 1e-9;
}

void build(benchmark::State& state) {
  const Scenario s = scenario(state);
  for (auto _ : state) {
    const Plan plan = or_exit(build_plan(s));
    state.PauseTiming();
    state.counters["ops"] = static_cast<double>(plan.ops.size());
    state.counters["plan_GB"] = gigabytes_now();
    state.ResumeTiming();
  }
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  state.counters["process_peak_GB"] = static_cast<double>(usage.ru_maxrss) * 1.024e-6;
}
void verify(benchmark::State& state) {
  const Plan plan = or_exit(build_plan(scenario(state)));
  for (auto _ : state) benchmark::DoNotOptimize(verify_plan(plan).deadlock_free);
}
void print(benchmark::State& state) {
  const Plan plan = or_exit(build_plan(scenario(state)));
  for (auto _ : state) state.counters["text_MB"] = static_cast<double>(print(plan).size()) * 1e-6;
}
void parse(benchmark::State& state) {
  const std::string text = print(or_exit(build_plan(scenario(state))));
  for (auto _ : state) benchmark::DoNotOptimize(or_exit(parse_plan(text, "bench")).ops.size());
}
BENCHMARK(build)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK(verify)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK(print)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK(parse)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tandem

BENCHMARK_MAIN();
