// Goal    how many rows each rank sends to each expert: drawn by Zipf's law, or read from a record;
//         and what all ranks get of it.
// Method  closed forms (s = 0: everybody the same; s large: the top_k most popular get all), laws
//         over many draws (sums, bounds, means), the walk's totals on every layout that moves rows,
//         and bad records with the place that is at fault.
#include "common/plan/routing.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/plan/routing_trace.h"
#include "common/plan/routing_zipf.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

Kernel route(std::int64_t tokens, std::int64_t experts, std::int64_t top_k,
             std::int64_t capacity = 0, std::int64_t slices = 0) {
  Kernel k;
  k.kind = KernelKind::route_fwd;
  k.dims = {2, tokens / 2, experts, top_k, 1, 1, capacity, slices};
  return k;
}

std::vector<std::int32_t> counts(const RoutingSource& source, const Kernel& k, int layer = 1,
                                 int microbatch = 0, int rank = 0, int step = 0) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(k.dims[2]), 0);
  source({step, layer, microbatch, 0, Rank{rank}, &k}, out);
  return out;
}

std::int64_t sum(const std::vector<std::int32_t>& v) {
  return std::accumulate(v.begin(), v.end(), std::int64_t{0});
}

Plan mixtral(const std::string& parallel, const std::string& more = "") {
  return plan_of(
      scenario(fmt::format("model: mixtral-tiny\ntraining: {{global_batch: 16}}\n"
                           "parallel: {{{}}}\n{}",
                           parallel, more)));
}

}  // namespace

TEST_CASE("zipf: exponent 0 is the balanced plan") {
  const RoutingSource even = zipf_routing(0, 7);
  for (const auto& [tokens, experts, top_k] :
       {std::array{64, 8, 2}, std::array{32, 4, 1}, std::array{4096, 256, 8}, std::array{6, 3, 3}})
    for (int rank = 0; rank < 5; ++rank)
      for (std::int32_t n : counts(even, route(tokens, experts, top_k), 3, 2, rank))
        CHECK(n == tokens * top_k / experts);
  // Where experts do not divide: the mean rounded down or up.
  const auto uneven = counts(even, route(64, 5, 1));
  CHECK(sum(uneven) == 64);
  for (std::int32_t n : uneven) CHECK((n == 12 || n == 13));
}

TEST_CASE("zipf: a large exponent sends every token to the same top_k experts of a layer") {
  const Kernel k = route(64, 8, 2);
  const RoutingSource source = zipf_routing(100, 1);
  const auto first = counts(source, k, 1, 0, 0);
  CHECK(std::count(first.begin(), first.end(), 64) == 2);
  CHECK(std::count(first.begin(), first.end(), 0) == 6);
  CHECK(counts(source, k, 1, 3, 5, 2) == first);  // whatever step, microbatch, rank
  bool moved = false;                             // another layer has other favourites
  for (int layer = 2; layer < 8; ++layer) moved |= counts(source, k, layer) != first;
  CHECK(moved);
}

TEST_CASE("zipf: means are the inclusion probabilities, sums are exact, nobody is chosen twice") {
  // s = 1, E = 4, K = 1: weights 1, 1/2, 1/3, 1/4 over 25/12. K = 2: the first one would be chosen
  // with 24/25, which is below 1, so the same doubled.
  for (const std::int64_t top_k : {1, 2}) {
    const Kernel k = route(1200, 4, top_k);
    const RoutingSource source = zipf_routing(1, 11);
    std::vector<std::int32_t> sorted = counts(source, k);
    std::sort(sorted.rbegin(), sorted.rend());
    const std::array<double, 4> pi = {12.0 / 25, 6.0 / 25, 4.0 / 25, 3.0 / 25};
    for (std::size_t i = 0; i < 4; ++i)
      CHECK(std::abs(sorted[i] - 1200 * pi[i] * static_cast<double>(top_k)) < 1);
  }
  for (const double s : {0.3, 1.0, 2.5})
    for (const std::int64_t top_k : {1, 3, 7, 8}) {
      const Kernel k = route(30, 8, top_k);
      const RoutingSource source = zipf_routing(s, 3);
      double of_first = 0;
      for (int rank = 0; rank < 200; ++rank) {
        const auto n = counts(source, k, 1, 0, rank);
        CHECK(sum(n) == 30 * top_k);
        CHECK(*std::max_element(n.begin(), n.end()) <= 30);
        of_first += n[0];
      }
      // Rounding is unbiased: the mean over ranks is one number, met within 5 standard errors of
      // it.
      const double mean = of_first / 200;
      for (std::int32_t n : {counts(source, k, 1, 0, 0)[0], counts(source, k, 1, 0, 1)[0]})
        CHECK(std::abs(n - mean) <= 1);
    }
}

TEST_CASE("zipf: a capacity keeps no more, and the seed alone decides") {
  const Kernel capped = route(64, 8, 2, 5, 4);  // 5 rows of each of 4 slices
  const auto kept = counts(zipf_routing(2, 1), capped);
  CHECK(*std::max_element(kept.begin(), kept.end()) == 20);
  CHECK(sum(kept) < 128);
  const auto all = counts(zipf_routing(2, 1), route(64, 8, 2));
  for (std::size_t e = 0; e < 8; ++e) CHECK(kept[e] == std::min(all[e], 20));
  CHECK(counts(zipf_routing(2, 1), route(64, 8, 2)) == all);
  bool differs = false;
  for (std::uint64_t seed = 2; seed < 6; ++seed)
    differs |= counts(zipf_routing(2, seed), route(64, 8, 2)) != all;
  CHECK(differs);
}

TEST_CASE("walk: what is received is what was sent, on every layout that moves rows") {
  const std::vector<std::string> layouts = {"dp: 4, ep: 4", "pp: 2, dp: 2, ep: 2",
                                            "tp: 2, sequence_parallel: true, dp: 2, ep: 2, etp: 2",
                                            "tp: 2, sequence_parallel: true, ep: 2"};
  for (const std::string& layout : layouts) {
    CAPTURE(layout);
    const Plan plan = mixtral(layout);
    const RoutingSource source = zipf_routing(1.2, 5);
    // By (layer, microbatch): rows sent, rows that experts multiply; products of one kind.
    std::map<std::pair<int, int>, std::int64_t> sent, multiplied;
    const int world = plan.header.mesh.world(), etp = plan.header.mesh.of(Axis::etp);
    walk_routing(plan, source, 0, [&](OpId id, const RowCounts& rows) {
      const Op& op = plan.op(id);
      if (op.phase != Phase::F) return;
      for (const Call& c : plan.calls_of(op)) {
        const KernelKind kind = plan.kernel(c.kernel).kind;
        for (int r = 0; r < world; ++r) {
          if (plan.program_of(Rank{r}) != plan.buffer(plan.operands_of(c.outputs)[0].id).program)
            continue;
          if (kind == KernelKind::route_fwd)
            sent[{op.layer, op.microbatch}] +=
                *rows.sum(plan.operands_of(c.outputs)[2].id, Rank{r});
          if (kind == KernelKind::experts_swiglu_fwd)
            multiplied[{op.layer, op.microbatch}] += *rows_of_call(plan, c, rows, Rank{r});
        }
      }
    });
    REQUIRE(!sent.empty());
    REQUIRE(multiplied.size() == sent.size());
    for (const auto& [place, n] : sent)
      CHECK(multiplied[place] == n * etp);  // every slice sees all
  }
}

TEST_CASE("walk: nano_train counts the same rows from labels") {
  const Plan plan = plan_of(scenario(
      "model: nano-train\ntraining: {global_batch: 16}\nparallel: {style: nano_train, ep: 4}\n"));
  std::int64_t checked = 0;
  walk_routing(plan, zipf_routing(1.5, 2), 0, [&](OpId id, const RowCounts& rows) {
    const Op& op = plan.op(id);
    for (const Call& c : plan.calls_of(op)) {
      if (plan.kernel(c.kernel).kind != KernelKind::count_rows) continue;
      const BufferId by_source = plan.operands_of(c.outputs)[0].id;
      const BufferId coming = plan.operands_of(c.inputs)[1].id;
      for (int r = 0; r < 4; ++r) {
        const auto of_experts = rows.of(by_source, Rank{r}), of_sources = rows.of(coming, Rank{r});
        REQUIRE(of_sources.size() == 4);
        REQUIRE(of_experts.size() % 4 == 0);
        const std::size_t each = of_experts.size() / 4;
        for (std::size_t m = 0; m < 4; ++m) {
          std::int64_t n = 0;
          for (std::size_t e = 0; e < each; ++e) n += of_experts[m * each + e];
          CHECK(n == of_sources[m]);
          ++checked;
        }
      }
    }
  });
  CHECK(checked > 0);
}

TEST_CASE("trace: text and back; as a source it gives what it holds") {
  const Plan plan = mixtral("dp: 2, ep: 2");
  const RoutingSource drawn = zipf_routing(1, 9);
  RoutingTrace trace;
  for (const int step : {4, 9})
    for (const RoutedPlace& p : routed_places(plan)) {
      RoutingRecord r{step, p.layer, p.microbatch, p.slice, p.rank.value, {}, 0};
      r.kept.resize(static_cast<std::size_t>(p.experts()));
      drawn({step, p.layer, p.microbatch, p.slice, p.rank, p.kernel}, r.kept);
      trace.records.push_back(r);
    }
  std::reverse(trace.records.begin(), trace.records.end());
  const std::string text = to_text(trace);
  const auto read = parse_routing_trace(text, "t.csv");
  REQUIRE(read.ok());
  CHECK(to_text(*read) == text);
  CHECK(read->steps() == std::vector<int>{4, 9});
  CHECK(routing_counts(plan) * 2 == std::ssize(read->records) * 8);  // 8 experts
  const auto source = traced_routing(*read, plan);
  REQUIRE(source.ok());
  for (const RoutedPlace& p : routed_places(plan)) {
    std::vector<std::int32_t> first(8, 0), second(8, 0), expected(8, 0);
    (*source)(p, first);
    RoutedPlace later = p;
    later.step = 1;
    (*source)(later, second);
    drawn({4, p.layer, p.microbatch, p.slice, p.rank, p.kernel}, expected);
    CHECK(first == expected);
    std::fill(expected.begin(), expected.end(), 0);
    drawn({9, p.layer, p.microbatch, p.slice, p.rank, p.kernel}, expected);
    CHECK(second == expected);
  }
}

TEST_CASE("trace: what is wrong with a file, and where") {
  struct Bad {
    std::string text;
    int line, column;
  };
  const std::string head = "step,layer,microbatch,slice,rank,e0,e1\n";
  for (const Bad& bad : {Bad{"", 1, 1}, Bad{"step,layer,rank,e0\n0,1,0,3\n", 1, 1}, Bad{head, 1, 1},
                         Bad{head + "0,1,0,0,0,3\n", 2, 1}, Bad{head + "0,1,0,0,0,3,4,5\n", 2, 15},
                         Bad{head + "0,1,0,0,0,3,4\n0,1,0,0,0,3.5,4\n", 3, 11},
                         Bad{head + "0,1,0,0,0,-3,4\n", 2, 11}, Bad{head + "0,1,,0,0,3,4\n", 2, 5},
                         Bad{head + "0,1,0,0,0,3,99999999999\n", 2, 13}}) {
    CAPTURE(bad.text);
    const auto read = parse_routing_trace(bad.text, "t.csv");
    REQUIRE(!read.ok());
    const Diagnostic& d = read.error().diagnostics[0];
    CHECK(d.code == "E-CAL-009");
    CHECK(d.where.line == bad.line);
    CHECK(d.where.column == bad.column);
  }
  // Well-formed, but of another plan.
  const Plan plan = mixtral("dp: 2, ep: 2");
  RoutingTrace good;
  for (const RoutedPlace& p : routed_places(plan)) {
    const auto each = static_cast<std::int32_t>(p.assignments() / p.experts());
    good.records.push_back(
        {0, p.layer, p.microbatch, p.slice, p.rank.value, std::vector(8, each), 0});
  }
  const auto refused = [&](const std::function<void(RoutingTrace&)>& change) {
    auto parsed = parse_routing_trace(to_text(good), "t.csv");
    REQUIRE(parsed.ok());
    change(*parsed);
    const auto source = traced_routing(*parsed, plan);
    REQUIRE(!source.ok());
    CHECK(source.error().diagnostics[0].code == "E-CAL-010");
    return source.error().diagnostics[0];
  };
  REQUIRE(traced_routing(good, plan).ok());
  CHECK(refused([](RoutingTrace& t) { t.records.pop_back(); }).found.starts_with("no counts of"));
  CHECK(refused([](RoutingTrace& t) { t.records[1] = t.records[0]; }).where.line == 2);
  CHECK(refused([](RoutingTrace& t) { t.records[3].rank = 2; }).where.line == 5);
  CHECK(refused([](RoutingTrace& t) { ++t.records[2].kept[0]; }).where.line == 4);
  CHECK(refused([](RoutingTrace& t) {
          t.records[2].kept[0] += 1000, t.records[2].kept[1] -= 1000;
        }).found.find("for expert 0") != std::string::npos);
  CHECK(refused([](RoutingTrace& t) { t.records[2].kept.pop_back(); }).found.find("7 experts") !=
        std::string::npos);
  const auto dense = traced_routing(good, plan_of(scenario("model: gpt-tiny\n")));
  REQUIRE(!dense.ok());
  CHECK(dense.error().diagnostics[0].code == "E-CAL-010");
}

}  // namespace tandem
