// Goal    uneven routing in a simulation: sizes of the exchanges, work of the experts, memory.
// Method  limits that have closed forms. Zipf 0 is the balanced plan, bit for bit. With exponent
//         100 and top_k 1 every token goes to one expert of its layer: on a switch of bandwidth B
//         each of the g - 1 steps of an all_to_all then carries all A rows of a source to one
//         member, so it takes g times as long as the balanced one. Memory is held to the rows that
//         a rank gets, counted here from the draws themselves; work to the roofline of those rows.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/plan/live_bytes.h"
#include "common/plan/routing_trace.h"
#include "common/plan/routing_zipf.h"
#include "common/plan/totals.h"
#include "sim/calibrate/kernel_list.h"
#include "sim/simulate.h"
#include "tests/common/plan/plan_of.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

Plan plan_of_text(const std::string& parallel, const std::string& model = "mixtral-tiny") {
  return plan_of(scenario("model: " + model +
                          "\ntraining: {global_batch: 16, micro_batch: 2}\nparallel: {" + parallel +
                          "}\n"));
}

// One expert of each layer gets every token.
constexpr double kOnlyOne = 100;
const char* const kTopOne = "{preset: mixtral-tiny, moe: {top_k: 1}}";

SimResult run(const Plan& plan, const ClusterSpec& spec, const RoutingSource* routing,
              Fidelity fidelity = Fidelity::automatic, int steps = 1,
              const Calibration* calibration = nullptr) {
  SimOptions o;
  o.ranks = RankSelection::all;
  o.fidelity = fidelity;
  o.routing = routing;
  o.fold = false;
  o.steps = steps;
  o.calibration = calibration;
  const Cluster cluster = cluster_of(spec, plan.header.mesh.world());
  auto result = simulate(plan, cluster, o);
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().diagnostics[0].title));
  return std::move(*result);
}

void check_same(const SimResult& a, const SimResult& b) {
  CHECK(a.iteration_ps == b.iteration_ps);
  CHECK(a.needed_bytes == b.needed_bytes);
  CHECK(a.kernel_scratch == b.kernel_scratch);
  for (std::size_t s = 0; s < a.source_share.size(); ++s)
    CHECK(a.source_share[s] == doctest::Approx(b.source_share[s]).epsilon(1e-9));
  REQUIRE(a.timeline.spans.size() == b.timeline.spans.size());
  std::size_t different = 0;
  for (std::size_t i = 0; i < a.timeline.spans.size(); ++i) {
    const Span &x = a.timeline.spans[i], &y = b.timeline.spans[i];
    different +=
        !(x.op == y.op && x.rank == y.rank && x.started == y.started && x.ended == y.ended);
  }
  REQUIRE(a.timeline.calls.size() == b.timeline.calls.size());
  for (std::size_t i = 0; i < a.timeline.calls.size(); ++i)
    different += a.timeline.calls[i].ended != b.timeline.calls[i].ended;
  REQUIRE(a.timeline.memory.size() == b.timeline.memory.size());
  for (std::size_t i = 0; i < a.timeline.memory.size(); ++i)
    different += a.timeline.memory[i].live != b.timeline.memory[i].live;
  CHECK(different == 0);
  REQUIRE(a.peaks.size() == b.peaks.size());
  for (std::size_t r = 0; r < a.peaks.size(); ++r) {
    CHECK(a.peaks[r].total == b.peaks[r].total);
    CHECK(a.peaks[r].by_class == b.peaks[r].by_class);
    CHECK(a.peaks[r].op_at_peak == b.peaks[r].op_at_peak);
  }
}

// Rows by (layer, microbatch) that the experts of a rank get, with dp 4 and ep 4: rank r has those
// of its quarter.
std::map<std::pair<int, int>, std::int64_t> rows_of_rank(const Plan& plan,
                                                         const RoutingSource& source, int rank) {
  std::map<std::pair<int, int>, std::int64_t> out;
  for (const RoutedPlace& p : routed_places(plan)) {
    std::vector<std::int32_t> kept(static_cast<std::size_t>(p.experts()), 0);
    source(p, kept);
    const auto each = kept.size() / 4, first = static_cast<std::size_t>(rank) * each;
    for (std::size_t e = first; e < first + each; ++e) out[{p.layer, p.microbatch}] += kept[e];
  }
  return out;
}

}  // namespace

TEST_CASE("routing: zipf 0 is the balanced plan bit for bit, with every kind of network") {
  const RoutingSource even = zipf_routing(0, 3);
  const std::vector<std::string> layouts = {"dp: 4, ep: 4", "pp: 2, dp: 2, ep: 2",
                                            "tp: 2, sequence_parallel: true, dp: 2, ep: 2, etp: 2"};
  for (const std::string& layout : layouts) {
    CAPTURE(layout);
    const Plan plan = plan_of_text(layout);
    for (const ClusterSpec& spec :
         {device_spec(1, 4, 1e-6), device_spec(2, 2, 1e-6), local_spec(2)})
      for (Fidelity f : {Fidelity::automatic, Fidelity::flow, Fidelity::closed_form})
        check_same(run(plan, spec, nullptr, f), run(plan, spec, &even, f));
  }
  // Messages of a calibrated host: a curve of the exchange among four.
  Calibration calibration;
  calibration.precision = "fp32";
  calibration.machine.cores = 2;
  TransportCurve curve;
  curve.kind = "all_to_all";
  curve.members = 4;
  curve.cpu_share = 0.5;
  curve.segments = {{0, 1e-5, 1e9}, {20'000, 2e-5, 2e9}};
  calibration.transports = {curve};
  const Plan plan = plan_of_text("dp: 4, ep: 4");
  check_same(run(plan, local_spec(2), nullptr, Fidelity::automatic, 1, &calibration),
             run(plan, local_spec(2), &even, Fidelity::automatic, 1, &calibration));
}

TEST_CASE("routing: all tokens to one expert make an all_to_all g times as long") {
  const Plan plan = plan_of_text("dp: 4, ep: 4", kTopOne);
  const RoutingSource one = zipf_routing(kOnlyOne, 3);
  for (Fidelity f : {Fidelity::closed_form, Fidelity::flow}) {
    const SimResult r = run(plan, device_spec(1, 4), &one, f);
    // n = 2 sequences of 32 tokens, one row each: 64 floats of 4 bytes; 3 steps at 100 GB/s.
    const Picoseconds each = transfer_ps(64.0 * 64 * 4, 100e9);
    int seen = 0;
    for (const Span& s : r.timeline.spans) {
      const Op& op = plan.op(s.op);
      if (op.kind != OpKind::all_to_all || !op.send_rows.valid()) continue;
      CHECK(s.ended - s.started == 3 * each);
      ++seen;
    }
    CHECK(seen == 8 * 2 * 4 * 4);  // layers, microbatches, ranks; there and back, twice
  }
  const SimResult even = run(plan, device_spec(1, 4), nullptr, Fidelity::closed_form);
  for (const Span& s : even.timeline.spans)
    if (const Op& op = plan.op(s.op); op.kind == OpKind::all_to_all && op.send_rows.valid())
      CHECK(s.ended - s.started == 3 * transfer_ps(64.0 * 64, 100e9));
}

TEST_CASE("routing: the slowest pair ends a step of the exchange, between nodes too") {
  // Two nodes of two; ranks 0, 1 | 2, 3; every row goes to one member t. Step k of 3: only the hop
  // from t - k carries rows: within t's node at 100 GB/s, from the other node at its NIC's 10 GB/s.
  const Plan plan = plan_of_text("dp: 4, ep: 4", kTopOne);
  const RoutingSource one = zipf_routing(kOnlyOne, 3);
  const SimResult r = run(plan, device_spec(2, 2), &one, Fidelity::closed_form);
  const double bytes = 64.0 * 64 * 4;
  int seen = 0;
  for (const Span& s : r.timeline.spans) {
    const Op& op = plan.op(s.op);
    if (op.kind != OpKind::all_to_all || !op.send_rows.valid() || op.phase != Phase::F) continue;
    CHECK(std::abs((s.ended - s.started) - (bytes / 100e9 + 2 * bytes / 10e9) * 1e12) < 8);
    ++seen;
  }
  CHECK(seen == 8 * 2 * 4 * 2);
}

TEST_CASE("routing: each rank works for the rows that it gets, and holds them") {
  const Plan plan = plan_of_text("dp: 4, ep: 4");
  const RoutingSource source = zipf_routing(1.3, 12);
  const ClusterSpec spec = device_spec(1, 4);
  const SimResult r = run(plan, spec, &source);
  CHECK(r.simulated_ranks == 4);
  CHECK(r.routed_rows_max_over_mean > 1.2);
  std::int64_t total = 0, ops = 0;
  std::set<Bytes> peaks;
  for (int rank = 0; rank < 4; ++rank) {
    const auto rows = rows_of_rank(plan, source, rank);
    RunTimeRows by_counts;
    for (const auto& [place, n] : rows) total += n;
    for (const Buffer& b : plan.buffers)
      if (b.rows_of.valid()) by_counts[b.rows_of] = rows.at({b.layer, b.microbatch});
    const PeakBytes expected =
        peak_with_rows(plan, ProgramId{0}, persistent_bytes(plan)[0], by_counts);
    CHECK(r.peaks[static_cast<std::size_t>(rank)].total == expected.total);
    CHECK(r.peaks[static_cast<std::size_t>(rank)].by_class == expected.by_class);
    CHECK(r.peaks[static_cast<std::size_t>(rank)].at_peak == expected.at_peak);
    peaks.insert(expected.total);
    // Every op of the step: the roofline with the rows of this rank.
    for (const Span& s : r.timeline.spans) {
      const Op& op = plan.op(s.op);
      if (s.rank != rank || op.kind != OpKind::compute) continue;
      Picoseconds work = 0;
      for (const Call& c : plan.calls_of(op)) {
        Kernel k = plan.kernel(c.kernel);
        if (catalogue(k.kind).dims[0] == "rows")
          k.dims[0] = std::max<std::int64_t>(1, rows.at({op.layer, op.microbatch})), ++ops;
        work += seconds_to_ps(
            roofline_seconds(k, plan.header.types, call_accumulates(plan, c), spec.device));
      }
      CHECK(s.ended - s.started == work);
    }
  }
  CHECK(total == 8 * 2 * 4 * 64 * 2);  // layers, microbatches, ranks, tokens, top_k
  CHECK(ops > 0);
  CHECK(peaks.size() > 1);
}

TEST_CASE("routing: a member's cores work for what it hands over and gets") {
  // A host without calibration: bytes are CPU work. Two ranks on plenty of cores; all rows go to
  // member t: it gets A and hands nothing over, the other the reverse. Both work for A/2 rows, as
  // in the balanced exchange, where each hands A/2 over and gets A/2.
  const Plan plan = plan_of_text("dp: 2, ep: 2", kTopOne);
  const RoutingSource one = zipf_routing(kOnlyOne, 3);
  const SimResult uneven = run(plan, local_spec(8), &one), even = run(plan, local_spec(8), nullptr);
  std::map<OpId, Picoseconds> balanced;
  for (const Span& s : even.timeline.spans) balanced[s.op] = s.ended - s.started;
  int seen = 0;
  for (const Span& s : uneven.timeline.spans) {
    const Op& op = plan.op(s.op);
    if (op.kind != OpKind::all_to_all || !op.send_rows.valid()) continue;
    CHECK(std::abs(s.ended - s.started - balanced[s.op]) <= 1);
    ++seen;
  }
  CHECK(seen > 0);
}

TEST_CASE("routing: steps of a record are simulated one after the other") {
  const Plan plan = plan_of_text("dp: 4, ep: 4");
  RoutingTrace trace;  // step 3 balanced, step 8 skewed
  for (const double exponent : {0.0, 3.0})
    for (const RoutedPlace& p : routed_places(plan)) {
      RoutingRecord r{exponent > 0 ? 8 : 3, p.layer, p.microbatch, p.slice, p.rank.value, {}, 0};
      r.kept.resize(8);
      zipf_routing(exponent, 3)(p, r.kept);
      trace.records.push_back(r);
    }
  const auto source = traced_routing(trace, plan);
  REQUIRE(source.ok());
  const ClusterSpec spec = device_spec(1, 4);
  const RoutingSource even = zipf_routing(0, 3), skewed = zipf_routing(3, 3);
  const SimResult both = run(plan, spec, &*source, Fidelity::automatic, 2);
  const SimResult first = run(plan, spec, &even), second = run(plan, spec, &skewed);
  std::map<int, Picoseconds> slowest;
  for (const StepMark& m : both.timeline.steps)
    slowest[m.step] = std::max<Picoseconds>(slowest[m.step], m.ended - m.started);
  CHECK(slowest[0] == first.iteration_ps);
  CHECK(slowest[1] == second.iteration_ps);
  CHECK(second.iteration_ps > first.iteration_ps);
  CHECK(both.iteration_ps == (first.iteration_ps + second.iteration_ps) / 2);
  for (std::size_t r = 0; r < 4; ++r)
    CHECK(both.peaks[r].total == std::max(first.peaks[r].total, second.peaks[r].total));
}

TEST_CASE("routing: a calibration measures kernels of experts with half and twice the rows too") {
  // 2 sequences of 32 tokens, 2 choices: 128 rows.
  const auto list = kernels_of(plan_of_text("dp: 4, ep: 4"));
  std::map<std::string, int> rows;
  for (const MeasuredKernel& k : list)
    if (k.kernel.starts_with("experts_swiglu_fwd rows="))
      ++rows[k.kernel.substr(24, k.kernel.find(' ', 24) - 24)];
  CHECK(rows == std::map<std::string, int>{{"64", 1}, {"128", 1}, {"256", 1}});
  const auto fixed =
      kernels_of(plan_of_text("dp: 2"));  // no rows leave a rank: their number is sure
  CHECK(std::count_if(fixed.begin(), fixed.end(), [](const MeasuredKernel& k) {
          return k.kernel.starts_with("experts_swiglu_fwd ");
        }) == 1);
}

TEST_CASE("routing: a plan without experts is as it was") {
  const RoutingSource one = zipf_routing(2, 3);
  const Plan plan = plan_of_text("dp: 2", "gpt-tiny");
  check_same(run(plan, device_spec(1, 2), nullptr), run(plan, device_spec(1, 2), &one));
}

}  // namespace tandem::sim
