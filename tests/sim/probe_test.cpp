// Plans that are executed to be measured, and what is read from their timelines. Method: the plans
// are simulated, so that every time is known, and timelines made by hand.
#include "sim/calibrate/probe.h"

#include <doctest/doctest.h>

#include "common/base/text.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "sim/calibrate/assemble.h"
#include "sim/calibrate/kernel_list.h"
#include "sim/simulate.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

constexpr std::array<Bytes, 4> kSizes = {64, 4096, 65536, 1 << 20};

}  // namespace

TEST_CASE("probe: plans of collectives and messages are plans: they print, parse and simulate") {
  for (const int members : {2, 4, 8}) {
    const std::array<OpKind, 2> kinds = {OpKind::all_reduce, OpKind::all_gather};
    const ProbePlan probe = collective_probe(kinds, members, kSizes, 3);
    CHECK(probe.probes.size() == 8);
    const auto back = parse_plan(print(probe.plan), "probe");
    REQUIRE_MESSAGE(back.ok(), to_text(back.error().diagnostics));
    CHECK(print(*back) == print(probe.plan));
    const auto result = simulate(probe.plan, cluster_of(local_spec(2), members), {});
    REQUIRE(result.ok());
    // The bytes that a member hands over: for all_gather its own part.
    for (const Probe& p : probe.probes)
      CHECK(Plan::bytes_in(probe.plan.op(p.streams[0][0])) == p.bytes);
  }
  const ProbePlan probe = message_probe(kSizes, 3);
  const auto back = parse_plan(print(probe.plan), "probe");
  REQUIRE_MESSAGE(back.ok(), to_text(back.error().diagnostics));
  CHECK(simulate(probe.plan, cluster_of(local_spec(2), 2), {}).ok());
}

// A calibration is found again: a local machine of two cores whose all-reduce of two takes
// 40 us + bytes / 2 GB/s, simulated, gives back that line, and its wake and issue times.
TEST_CASE("probe: the curve that a machine has is read back from its timeline") {
  Calibration machine;
  machine.machine.cores = 2;
  machine.issue_s = 2e-6;
  machine.wakes = {{2, 30e-6}};
  machine.transports = {{"all_reduce", 2, 1, {{0, 40e-6, 2e9}}},
                        {"send", 2, 0.5, {{0, 10e-6, 4e9}}}};
  SimOptions options;
  options.calibration = &machine;
  options.steps = 2;
  options.ranks = RankSelection::all;
  const auto run = [&](const ProbePlan& probe) {
    auto result = simulate(probe.plan, cluster_of(local_spec(2), 2), options);
    REQUIRE(result.ok());
    for (Span& s : result->timeline.spans) s.cpu = (s.ended - s.started) / 4;
    return std::move(result->timeline);
  };
  ProbeFigures figures;
  const std::array<OpKind, 1> kinds = {OpKind::all_reduce};
  const ProbePlan all_reduce = collective_probe(kinds, 2, kSizes, 4);
  add_figures(all_reduce, run(all_reduce), figures);
  const ProbePlan send = message_probe(kSizes, 4);
  add_figures(send, run(send), figures);
  const ProbePlan turns = host_probe(2, 15);
  add_figures(turns, run(turns), figures);
  REQUIRE(figures.curves.size() == 2);
  CHECK(figures.curves[0].samples.size() == 4);
  CHECK(figures.curves[0].samples[3].seconds == doctest::Approx(40e-6 + 1048576 / 2e9));
  CHECK(figures.curves[1].kind == OpKind::send);
  CHECK(figures.curves[1].samples[1].seconds == doctest::Approx(10e-6 + 4096 / 4e9));

  Calibration out;
  add_transports(figures, out);
  REQUIRE(out.transports.size() == 2);
  REQUIRE(out.transports[0].segments.size() == 1);
  CHECK(out.transports[0].segments[0].alpha_s == doctest::Approx(40e-6));
  CHECK(out.transports[0].segments[0].bytes_per_s == doctest::Approx(2e9));
  CHECK(out.transports[0].cpu_share == doctest::Approx(0.25));
  REQUIRE(out.wakes.size() == 1);
  CHECK(out.wakes[0].ranks == 2);
  CHECK(out.wakes[0].seconds == doctest::Approx(30e-6));
  REQUIRE(figures.turns_s[2].size() == 2 * 2 * 15);  // ranks, steps
  CHECK(figures.turns_s[2][0] == doctest::Approx(30e-6));
  CHECK(out.issue_s == doctest::Approx(2e-6));
  REQUIRE(out.fits.size() == 2);
  CHECK(out.fits[0].name == "all_reduce x2");
  CHECK(out.fits[0].held_out == 1);
  CHECK(out.fits[0].max_error < 1e-6);
}

// A turn counts where the second op had been issued when the first ended.
TEST_CASE("probe: an op that was issued late is no turn") {
  ProbePlan probe;
  probe.plan.programs.push_back({0, 2});
  probe.plan.ops.resize(2);
  probe.turns = {{OpId{0}, OpId{1}}};
  Timeline t;
  t.clock = Clock::monotonic_ns;
  t.spans = {{OpId{0}, 0, 0, 0, 0, 0, 1000, 900},
             {OpId{1}, 0, 0, 500, 1700, 1700, 2000, 300},
             {OpId{0}, 0, 1, 0, 0, 0, 1000, 900},
             {OpId{1}, 0, 1, 1200, 1250, 1250, 2000, 300}};  // issued late
  ProbeFigures figures;
  add_figures(probe, t, figures);
  REQUIRE(figures.turns_s[1].size() == 1);
  CHECK(figures.turns_s[1][0] == doctest::Approx(700e-9));
  CHECK(figures.issues_s.size() == 2);
}

TEST_CASE("kernel list: the grid is valid, and of a plan each kernel comes once in each mode") {
  const auto grid = kernel_grid();
  CHECK(grid.size() > 200);
  std::array<bool, kNumKernelKinds> seen{};
  for (const MeasuredKernel& m : grid) {
    const auto kernel = kernel_from_text(split(m.kernel, ' '));
    REQUIRE_MESSAGE(kernel.has_value(), m.kernel);
    seen[static_cast<std::size_t>(kernel->kind)] = true;
    if (!m.accumulate) continue;
    bool may = false;
    for (const Operand& o : signature(*kernel, {}).outputs) may |= o.may_accumulate;
    CHECK_MESSAGE(may, m.kernel);
  }
  // Latent attention is measured where a plan uses it: its six widths span no grid of few points.
  for (int k = 0; k < kNumKernelKinds; ++k)
    CHECK_MESSAGE(seen[static_cast<std::size_t>(k)] != is_mla(static_cast<KernelKind>(k)),
                  catalogue(static_cast<KernelKind>(k)).name);

  PlanMaker make(1, 1, 1);
  make.begin_program();
  const KernelId a = make.gelu(100), b = make.gelu(200);
  make.compute({b, a, b});
  const auto list = kernels_of(make.plan);
  REQUIRE(list.size() == 2);
  CHECK(list[0].kernel == "gelu_fwd elements=100 erf");
  CHECK(merged(list, list) == list);
}

// Three sizes of one kernel in two modes make two fits; two sizes of another make none.
TEST_CASE("assemble: kernels and their fits") {
  MeasureResult m;
  for (int busy : {1, 2})
    for (std::int64_t n : {1000, 2000, 4000}) {
      const double s = 1e-9 * static_cast<double>(n) * busy;
      m.points.push_back(
          {{"gelu_fwd elements=" + std::to_string(n) + " erf", false}, busy, s, s, 0, 9});
    }
  m.points.push_back({{"grad_add elements=10", false}, 2, 1e-6, 1e-6, 0, 9});
  Calibration c;
  add_kernels(m, {}, c);
  CHECK(c.kernels.size() == 7);
  REQUIRE(c.fits.size() == 1);
  CHECK(c.fits[0].name == "gelu_fwd erf");
  CHECK(c.fits[0].points == 3);
  CHECK(c.fits[0].held_out == 1);
  CHECK(c.fits[0].max_error < 1e-9);
}

}  // namespace tandem::sim
