// The comparison of two timelines: parts by hand on one rank, the exact sum on whole pipelines,
// medians, order, memory, replay durations, and what is refused.
#include "common/report/compare.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "common/report/numbers.h"
#include "tests/common/report/synthetic.h"

namespace tandem {
namespace {

using synthetic::Speed;

Speed measured_speed() {
  Speed s;
  s.clock = Clock::monotonic_ns, s.steps = 5, s.jitter = 0.2, s.launch_ns = 300;
  s.forward_ns = 11'000, s.backward_ns = 19'000, s.transfer_ns = 2'600, s.seed = 9;
  return s;
}

std::int64_t sum(const Parts& parts) {
  std::int64_t n = 0;
  for (const auto& [key, ns] : parts) n += ns;
  return n;
}

Comparison compared(const Plan& plan, const Timeline& p, const Timeline& m) {
  const Result<Comparison> r = compare(plan, p, m);
  REQUIRE(r.ok());
  return *r;
}

}  // namespace

// Goal    every ns of a step is in the part it belongs to.
// Method  a pipeline of 2 ranks, 1 microbatch, no jitter, everything issued at once; rank 1 by
// hand.
//
//   rank 0   F 10 us | send 2 |                waits for the gradient | B 20 | update 10 | metrics
//   rank 1   .. waits for act ..| recv 2 | F 10 | B 20 | send 2 ..... update 10 ... metrics
//
// Law      rank 1, ns: 0 .. 10,000 waiting act; .. 12,000 transfer act; .. 42,000 its F and B;
//          the update follows at once, .. 52,000. Rank 0: recv of the gradient meets its send at
//          42,000, .. 44,000; B .. 64,000; update .. 74,000; metrics .. 76,000 on both.
TEST_CASE("parts: a step by hand") {
  const Plan plan = synthetic::make_plan({2, 1, 1, 1});
  Speed speed;
  speed.issue_ns = 0;
  const Timeline t = synthetic::run(plan, speed);
  CommId act, grad, world;
  for (std::size_t i = 0; i < plan.communicators.size(); ++i) {
    const std::string& name = plan.name(plan.communicators[i].name);
    const CommId id{static_cast<std::int64_t>(i)};
    if (name == "edge:0->1") act = id;
    if (name == "edge:1->0") grad = id;
    if (name == "world") world = id;
  }
  const auto part = [](const Parts& p, PartKind kind, std::int32_t index) {
    const auto at = p.find({kind, index});
    return at == p.end() ? 0 : at->second;
  };
  const auto norm = static_cast<std::int32_t>(CostClass::norm);
  const auto matmul = static_cast<std::int32_t>(CostClass::matmul);
  const auto optimizer = static_cast<std::int32_t>(CostClass::optimizer);

  const Parts one = cut_into_parts(plan, t, rank_step(t, 1, 0));
  CHECK(part(one, PartKind::waiting, act.value) == 10'000);
  CHECK(part(one, PartKind::transfer, act.value) == 2'000);
  CHECK(part(one, PartKind::compute, norm) == 3'000);
  CHECK(part(one, PartKind::compute, matmul) == 27'000);
  CHECK(part(one, PartKind::compute, optimizer) == 10'000);
  // The synthetic plan lets the update of a rank with an edge wait for its send: 2,000 more.
  CHECK(part(one, PartKind::transfer, grad.value) == 2'000);
  CHECK(part(one, PartKind::waiting, world.value) == 74'000 - 54'000);
  CHECK(part(one, PartKind::transfer, world.value) == 2'000);
  CHECK(sum(one) == 76'000);

  const Parts zero = cut_into_parts(plan, t, rank_step(t, 0, 0));
  CHECK(part(zero, PartKind::waiting, grad.value) == 42'000 - 10'000);
  CHECK(part(zero, PartKind::transfer, grad.value) == 2'000);
  CHECK(part(zero, PartKind::waiting, act.value) == 0);  // its send is hidden behind the wait
  CHECK(part(zero, PartKind::compute, matmul) == 27'000);
  CHECK(part(zero, PartKind::transfer, world.value) == 2'000);
  CHECK(sum(zero) == 76'000);
  CHECK(part_name(plan, {PartKind::waiting, act.value}) == "waiting edge:0->1");
  CHECK(part_name(plan, {PartKind::compute, matmul}) == "compute matmul");
}

// The host issues op i at 50 us * i: rank 0 computes when it is told to.
TEST_CASE("parts: a late host and a late launch are the host's") {
  const Plan plan = synthetic::make_plan({1, 1, 2, 1});  // F0 B0 F1 B1 update metrics
  Speed speed;
  speed.issue_ns = 50'000, speed.launch_ns = 1'000;
  const Timeline t = synthetic::run(plan, speed);
  const Parts p = cut_into_parts(plan, t, rank_step(t, 0, 0));
  // F at 0, B at 50, F at 100, B at 150, update at 200, metrics at 250 (us), each 1 us late.
  const std::int64_t compute = 10'000 + 20'000 + 10'000 + 20'000 + 10'000;
  std::int64_t host = p.at({PartKind::host});
  CHECK(host == 250'000 - compute);
  CHECK(sum(p) == 252'000);
}

TEST_CASE("parts: gaps between kernel calls are the host's, a timeline without calls still sums") {
  const Plan plan = synthetic::make_plan({1, 1, 1, 1});
  Speed speed;
  speed.issue_ns = 0;
  Timeline t = synthetic::run(plan, speed);
  t.calls[1].started += 500'000;  // 500 ns after the first call has ended
  Parts p = cut_into_parts(plan, t, rank_step(t, 0, 0));
  CHECK(p.at({PartKind::host}) == 500);
  CHECK(sum(p) == 42'000);
  t.calls.clear();
  p = cut_into_parts(plan, t, rank_step(t, 0, 0));
  CHECK(sum(p) == 42'000);
  CHECK(p.at({PartKind::compute, static_cast<std::int32_t>(CostClass::matmul)}) == 30'000);
}

// Goal    the waterfall sums to the difference of the steps exactly, for any times.
// Method  many shapes and seeds, odd picoseconds on one side, slow ranks; integers only.
TEST_CASE("waterfall: parts of every rank sum to the step, differences to the error") {
  for (int seed = 1; seed <= 12; ++seed) {
    const synthetic::Shape shape{1 + seed % 4, 1 + seed % 2, 1 + seed % 5, 1 + seed % 3};
    const Plan plan = synthetic::make_plan(shape);
    Speed a, b = measured_speed();
    a.jitter = 0.37, a.seed = seed, a.launch_ns = 13;
    b.seed = 100 + seed, b.slow_rank = seed % shape.pp, b.issue_ns = 100 * seed;
    CAPTURE(seed);
    const Comparison c = compared(plan, synthetic::run(plan, a), synthetic::run(plan, b));
    const auto ranks = static_cast<std::int64_t>(c.ranks.size());
    std::int64_t p = 0, m = 0, d = 0;
    for (const WaterfallPart& part : c.waterfall) {
      CHECK(part.predicted_sum_ns >= 0);
      CHECK(part.measured_sum_ns >= 0);
      p += part.predicted_sum_ns, m += part.measured_sum_ns, d += part.difference_sum_ns();
    }
    CHECK(p == c.predicted_ns * ranks);
    CHECK(m == c.measured_ns * ranks);
    CHECK(d == (c.predicted_ns - c.measured_ns) * ranks);
    CHECK(c.error_rel ==
          static_cast<double>(c.predicted_ns) / static_cast<double>(c.measured_ns) - 1);
  }
}

TEST_CASE("compare: a timeline against itself has no error anywhere") {
  const Plan plan = synthetic::make_plan({3, 2, 4, 2});
  Speed s;
  s.jitter = 0.2;
  const Timeline t = synthetic::run(plan, s);
  const Comparison c = compared(plan, t, t);
  CHECK(c.error_rel == 0);
  CHECK(c.median_op_error == 0);
  CHECK(c.order_correlation == doctest::Approx(1));
  CHECK(c.inversions.empty());
  for (const WaterfallPart& p : c.waterfall) CHECK(p.difference_sum_ns() == 0);
  REQUIRE(c.peak_memory_error);
  CHECK(*c.peak_memory_error == 0);
  CHECK(summary_line(c).find("every part agrees") != std::string::npos);
}

TEST_CASE("compare: the median measured step, of two middle ones the shorter") {
  const Plan plan = synthetic::make_plan({2, 1, 2, 1});
  Speed m = measured_speed();
  m.steps = 4;
  const Timeline measured = synthetic::run(plan, m);
  const Comparison c = compared(plan, synthetic::run(plan, {}), measured);
  REQUIRE(c.measured_steps_ns.size() == 4);
  std::vector<std::int64_t> sorted = c.measured_steps_ns;
  std::sort(sorted.begin(), sorted.end());
  CHECK(sorted[0] < sorted[1]);
  CHECK(c.measured_ns == sorted[1]);
  CHECK(c.measured_steps_ns[static_cast<std::size_t>(c.measured_step)] == c.measured_ns);
}

TEST_CASE("compare: twice the duration is an error of -50 %, found where it is") {
  const Plan plan = synthetic::make_plan({2, 1, 2, 1});
  Speed slow;
  slow.slow_rank = 1;
  const Timeline t = synthetic::run(plan, {}), late = synthetic::run(plan, slow);
  const Comparison c = compared(plan, t, late);
  REQUIRE(!c.worst_ops.empty());
  CHECK(c.worst_ops[0].rank == 1);
  CHECK(c.worst_ops[0].error == doctest::Approx(-0.5));
  CHECK(c.worst_ops[0].predicted_ns == 20'000);  // a backward
  CHECK(c.worst_ops[0].measured_ns == 40'000);
  // 5 compute ops of 10 are twice as long, the communications are equal: the median is 0.
  CHECK(c.median_compute_error == 0);
  CHECK(c.median_communication_error == 0);
}

TEST_CASE("compare: order of starts by hand") {
  const Plan plan = synthetic::make_plan({1, 1, 2, 1});  // ops 0..5: five on compute, then metrics
  const Timeline t = synthetic::run(plan, {});
  Timeline other = t;
  // Starts 0 1 2 3 4 5 become 1 0 2 3 4 5: one pair, rho = 1 - 6 * 2 / (6 * 35).
  std::swap(other.spans[0].started, other.spans[1].started);
  for (Span& s : other.spans) s.ready = s.issued = 0, s.ended = std::max(s.ended, s.started);
  other.calls.clear();
  const Comparison c = compared(plan, t, other);
  REQUIRE(c.order.size() == 1);
  CHECK(c.order[0].inversions == 1);
  CHECK(c.order[0].correlation == doctest::Approx(1 - 6.0 * 2 / (6 * 35)));
  REQUIRE(c.inversions.size() == 1);
  CHECK(c.inversions[0].first == OpId{0});
  CHECK(c.inversions[0].second == OpId{1});
  CHECK(c.inversions[0].measured_gap_ns < 0);
}

TEST_CASE("compare: peak memory of the rank where it is most wrong") {
  const Plan plan = synthetic::make_plan({2, 1, 2, 1});
  Timeline p = synthetic::run(plan, {}), m = p;
  m.peaks[0].total = 1000, p.peaks[0].total = 990;
  m.peaks[1].total = 1000, p.peaks[1].total = 1020;
  const Comparison c = compared(plan, p, m);
  REQUIRE(c.peak_memory_error);
  CHECK(*c.peak_memory_error == doctest::Approx(0.02));
  p.peaks.clear();
  CHECK(!compared(plan, p, m).peak_memory_error);
}

TEST_CASE("compare: skewed clocks are seen and said") {
  const Plan plan = synthetic::make_plan({2, 1, 2, 1});
  Speed s = measured_speed();
  s.steps = 1;
  Timeline m = synthetic::run(plan, s);
  CHECK(compared(plan, synthetic::run(plan, {}), m).clock_skew_ns == 0);
  for (Span& x : m.spans)
    if (x.rank == 1)
      x.issued += 500'000, x.ready += 500'000, x.started += 500'000, x.ended += 500'000;
  for (CallSpan& x : m.calls)
    if (x.rank == 1) x.started += 500'000, x.ended += 500'000;
  for (StepMark& x : m.steps)
    if (x.rank == 1) x.started += 500'000, x.ended += 500'000;
  const Comparison c = compared(plan, synthetic::run(plan, {}), m);
  CHECK(c.clock_skew_ns > 400'000);
  CHECK(c.clock_skew_ns <= 500'000);
  REQUIRE(c.warnings.size() == 1);
  CHECK(c.warnings[0].code == "W-TIME-001");
}

TEST_CASE("compare: what cannot be compared is refused") {
  const Plan plan = synthetic::make_plan({2, 1, 2, 1});
  const Timeline t = synthetic::run(plan, {});
  const auto code = [&](const Timeline& p, const Timeline& m) {
    const Result<Comparison> r = compare(plan, p, m);
    REQUIRE(!r.ok());
    CHECK(r.error().failure == Failure::bad_input);
    return r.error().diagnostics[0].code;
  };
  Timeline other = t;
  other.meta["plan_id"] = "another";
  CHECK(code(t, other) == "E-TIME-006");
  other = t;
  other.spans[0].op = OpId{12345};
  CHECK(code(other, t) == "E-TIME-004");
  Timeline zero = t, one = t;
  zero.meta.emplace("ranks", "0"), one.meta.emplace("ranks", "1");
  const auto keep = [](Timeline& x, int rank) {
    std::erase_if(x.spans, [&](const Span& s) { return s.rank != rank; });
    std::erase_if(x.calls, [&](const CallSpan& s) { return s.rank != rank; });
  };
  keep(zero, 0), keep(one, 1);
  CHECK(code(zero, one) == "E-TIME-007");
  CHECK(compared(plan, zero, t).ranks == std::vector<int>{0});
}

TEST_CASE("replay durations: medians by call that sum to the op") {
  const Plan plan = synthetic::make_plan({2, 1, 2, 1});
  Speed s;
  s.clock = Clock::monotonic_ns, s.steps = 3;
  Timeline m = synthetic::run(plan, s);
  for (CallSpan& c : m.calls)
    if (c.step == 2 && c.op == OpId{0} && c.call == 0) c.ended += 100;  // no median sees one step
  const MeasuredDurations d = measured_durations(plan, m);
  CHECK(d.by_op_and_rank.at({OpId{0}, 0}) == std::vector<std::int64_t>{3'000, 7'000});
  for (const Span& span : m.spans) {
    const auto& list = d.by_op_and_rank.at({span.op, span.rank});
    std::int64_t total = 0;
    for (std::int64_t x : list) total += x;
    CHECK(total == span.ended - span.started);
  }
}

TEST_CASE("compare: text and JSON") {
  const Plan plan = synthetic::make_plan({2, 2, 2, 1});
  Comparison c = compared(plan, synthetic::run(plan, {}), synthetic::run(plan, measured_speed()));
  c.replay_error_rel = -0.0125;
  const std::string text = to_text(c);
  CHECK(text.find("predicted ") == 0);
  CHECK(text.find("the largest part of the difference is ") != std::string::npos);
  CHECK(text.find("compute matmul") != std::string::npos);
  CHECK(text.find("with measured durations -1.25 %") != std::string::npos);
  for (std::size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    CHECK(end - at <= 110);
  const nlohmann::json j = to_json(c);
  for (const char* key :
       {"error_rel", "waterfall", "replay_error_rel", "median_op_error", "peak_memory_error"})
    CHECK(j.contains(key));
  double total = 0;
  for (const auto& [name, s] : j["waterfall"].items()) total += s.get<double>();
  CHECK(total == doctest::Approx(j["predicted_s"].get<double>() - j["measured_s"].get<double>()));
  CHECK(j["replay_error_rel"] == -0.0125);
  c.replay_error_rel.reset();
  CHECK(to_json(c)["replay_error_rel"].is_null());
}

TEST_CASE("numbers: three digits and the unit that fits") {
  CHECK(text_of_time(0) == "0 ns");
  CHECK(text_of_time(999) == "999 ns");
  CHECK(text_of_time(1000) == "1.00 us");
  CHECK(text_of_time(131'400'000) == "131 ms");
  CHECK(text_of_time(-20'500) == "-20.5 us");
  CHECK(text_of_time(2.5e9) == "2.50 s");
  CHECK(text_of_time(12.5) == "12.5 ns");
  CHECK(text_of_time(999'999) == "1.00 ms");
  CHECK(text_of_bytes(312) == "312 B");
  CHECK(text_of_bytes(1536) == "1.50 KiB");
  CHECK(text_of_error(-0.061) == "-6.10 %");
  CHECK(text_of_error(0) == "+0.00 %");
}

}  // namespace tandem
