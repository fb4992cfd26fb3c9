// Goal    every plan that the builder makes passes every pass; what it is refused for is known.
// Method  every kind of schedule x p x m x communicators x grouping (5.3); pp 1, 2, 4 x tp 1, 2 x
// dp 1, 2 x gpipe, 1f1b x receive early, deferred x communicators x
//         precision. Peaks in visits against the closed forms of schedules.md 2.0; text round trip.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>

#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"
#include "common/schedule/registry.h"
#include "tests/common/plan/example.h"
#include "tests/common/plan/plan_equal.h"
#include "tests/sim/scale.h"

using namespace tandem;

namespace {

struct Layout {
  int tp = 1, dp = 1, pp = 1, microbatches = 4;
  std::string kind = "1f1b", receive = "early", communicators = "edge", precision = "fp32",
              grouping = "none";
  bool tied = true;
  int layers = 4;
};

std::string text_of(const Layout& l) {
  return fmt::format(
      "tandem: 1\nname: test\n"
      "model: {{layers: {}, hidden: 32, heads: 4, ffn_hidden: 64, vocab: 64, max_sequence: 16, "
      "tied_embeddings: {}}}\n"
      "training: {{sequence: 16, micro_batch: 1, global_batch: {}, precision: {}}}\n"
      "parallel: {{tp: {}, pp: {}}}\n"
      "schedule: {{kind: {}{}, receive: {}, communicators: {}, grouping: {}}}\n"
      "cluster: {{nodes: 1, devices_per_node: {}, device: {{preset: h100-sxm}}, network: [{{name: "
      "n, kind: "
      "switch, scope: node, bandwidth: 100 GB/s, latency: 2 us}}]}}\n",
      l.layers, l.tied, l.microbatches * l.dp, l.precision, l.tp, l.pp, l.kind,
      l.kind == "seq1f1b" ? ", slices: 2" : "", l.receive, l.communicators, l.grouping,
      l.tp * l.dp * l.pp);
}

Plan built(const Layout& l) {
  const std::string text = text_of(l);
  Result<Scenario> s = read_scenario_text("test.yaml", text);
  if (!s) FAIL(text << to_text(s.error().diagnostics));
  Result<Plan> plan = build_plan(*s);
  if (!plan) FAIL(text << to_text(plan.error().diagnostics));
  return std::move(*plan);
}

}  // namespace

TEST_CASE("built plans pass, at every level with early receives") {
  int plans = 0;
  for (int pp : {1, 2, 4})
    for (int tp : {1, 2})
      for (int dp : {1, 2})
        for (const char* kind : {"gpipe", "1f1b"})
          for (const char* communicators : {"edge", "pair", "world"})
            for (const bool tied : {true, false}) {
              Layout l{tp, dp, pp, 5, kind, "early", communicators, "fp32", "none", tied};
              if (pp == 1 && communicators != std::string("edge")) continue;
              CAPTURE(text_of(l));
              const Plan plan = built(l);
              const std::string text = print(plan);
              VerifyOptions o;
              o.text = text;
              const Verification v = verify_plan(plan, o);
              CHECK_MESSAGE(v.ok(), to_text(v.errors));
              CHECK(v.buffered);
              CHECK(v.rendezvous);
              CHECK(v.blocking_host);
              CHECK(v.serial_launch);
              CHECK(v.memory_order);
              REQUIRE(v.programs.size() == static_cast<std::size_t>(pp));
              for (int r = 0; r < pp; ++r) {
                const ProgramMemory& m = v.programs[static_cast<std::size_t>(r)];
                const int expected = kind == std::string("gpipe") ? 5 : std::min(pp - r, 5);
                CHECK(m.peak_w == expected);
                CHECK(m.peak_i == expected);
              }
              const Plan again = parsed(text);
              check_equal(plan, again);
              CHECK(print(again) == text);
              ++plans;
            }
  MESSAGE(plans << " plans");
}

TEST_CASE("built plans with grouped messages, and in other precisions") {
  for (const char* communicators : {"edge", "pair", "world"}) {
    Layout l{1, 1, 4, 6, "1f1b", "early", communicators};
    l.grouping = "runs";
    CAPTURE(communicators);
    const Verification v = verify_plan(built(l));
    CHECK_MESSAGE(v.ok(), to_text(v.errors));
    CHECK(v.serial_launch);
  }
  for (const char* precision : {"fp64", "bf16"}) {
    CAPTURE(precision);
    const Verification v = verify_plan(built({2, 2, 2, 3, "1f1b", "early", "edge", precision}));
    CHECK_MESSAGE(v.ok(), to_text(v.errors));
  }
}

TEST_CASE("N9: built plans with deferred receives end at (b), 1f1b not at (d)") {
  for (int pp : {1, 2, 3, 4})
    for (const std::string kind : {"gpipe", "1f1b"}) {
      Layout l{1, 1, pp, 8, kind, "deferred"};
      CAPTURE(text_of(l));
      const Plan plan = built(l);
      VerifyOptions o;
      const Verification v = verify_plan(plan, o);
      CHECK_MESSAGE(v.ok(), to_text(v.errors));  // V7 too
      CHECK(v.rendezvous);
      CHECK(v.memory_order);  // receives take their memory before the sends around them
      const bool serial = kind == "gpipe" || pp == 1;
      CHECK(v.serial_launch == serial);
      o.serial_launch = true;
      const std::string strict = to_text(verify_plan(plan, o).errors);
      CHECK((strict.find("E-PLAN-025: V6.d cycle of ") == std::string::npos) == serial);
    }
}

// schedules.md 5.3: the positive tests.
TEST_CASE(
    "every kind passes; early receives at every level, with every communicator and grouping") {
  int plans = 0;
  for (const std::string& kind : schedule_kinds()) {
    const bool two_ways = kind == "dualpipe" || kind == "chimera";
    for (int p : {2, 3, 4})
      for (int m : {p, 2 * p, 2 * p + 1, 3 * p + 1}) {
        if (two_ways && (p % 2 != 0 || m % 2 != 0)) continue;
        Layout l;
        l.pp = p, l.microbatches = m, l.kind = kind, l.layers = 8;
        if (!make_order(kind, {p, m}, {})) continue;  // its constraint on m
        for (const char* communicators : {"edge", "pair", "world"})
          for (const char* grouping : {"none", "runs"}) {
            l.receive = "early", l.communicators = communicators, l.grouping = grouping;
            CAPTURE(text_of(l));
            const Verification v = verify_plan(built(l));
            CHECK_MESSAGE(v.ok(), to_text(v.errors));
            CHECK(v.buffered);
            CHECK(v.rendezvous);
            CHECK(v.blocking_host);
            CHECK(v.serial_launch);
            CHECK(v.memory_order);
            ++plans;
          }
        l.receive = "deferred", l.communicators = "edge", l.grouping = "none";
        CAPTURE(text_of(l));
        const Verification v = verify_plan(built(l));
        CHECK(v.rendezvous);
        // Safe by the rules of communicators. Where several stages share a rank, a receive that
        // takes its memory late can still wait for what the sends around it free: refused by V6.m.
        for (const Diagnostic& d : v.errors)
          CHECK_MESSAGE(d.title.starts_with("V6.m stuck under the memory rule"), d.title);
        ++plans;
      }
  }
  MESSAGE(plans << " plans");
  CHECK(plans > 700);
}

TEST_CASE("peaks of visits of a plan are those of its order") {
  for (const std::string& kind : schedule_kinds()) {
    const int p = 4, m = 8;
    const ScheduleOptions options =
        kind == "seq1f1b" ? ScheduleOptions{{"slices", "2"}} : ScheduleOptions{};
    Layout l;
    l.pp = p, l.microbatches = m, l.kind = kind, l.layers = 8;
    const Verification v = verify_plan(built(l));
    CAPTURE(kind);
    // The first stage has whole backwards (4.1): its visits end with its W.
    Order order = std::move(*make_order(kind, {p, m}, options));
    for (RankOrder& list : order.ranks) {
      std::erase_if(list, [](const Action& a) { return a.stage == 0 && a.kind == ActionKind::I; });
      for (Action& a : list)
        if (a.stage == 0 && a.kind == ActionKind::W) a.kind = ActionKind::B;
    }
    for (std::size_t r = 0; r < order.ranks.size(); ++r) {
      int held = 0, peak = 0, held_i = 0, peak_i = 0;
      const RankOrder& list = order.ranks[r];
      for (std::size_t i = 0; i < list.size();) {
        const std::size_t end = end_of_cell(list, i);
        for (std::size_t k = i; k < end; ++k)
          if (list[k].kind == ActionKind::F) ++held, ++held_i;
        peak = std::max(peak, held), peak_i = std::max(peak_i, held_i);
        for (std::size_t k = i; k < end; ++k) {
          if (is_weight(list[k].kind)) --held;
          if (is_backward(list[k].kind)) --held_i;
        }
        i = end;
      }
      CAPTURE(r);
      CHECK(v.programs[r].peak_w == peak);
      CHECK(v.programs[r].peak_i == peak_i);
    }
  }
}

TEST_CASE("closed forms of static memory hold for every placement, and for two copies") {
  for (const std::string& kind : schedule_kinds()) {
    for (const char* model : {"gpt-tiny", "llama-tiny", "deepseek-tiny"})
      for (int zero : {0, 1}) {
        const std::string text = fmt::format(
            "tandem: 1\nmodel: {}\ntraining: {{micro_batch: 1, global_batch: 16}}\n"
            "parallel: {{pp: 4, dp: 2, zero: {}}}\nschedule: {}\n",
            model, zero, kind);
        CAPTURE(text);
        const Result<Scenario> s = read_scenario_text("t.yaml", text);
        REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
        const Plan plan = std::move(*build_plan(*s));
        for (int pp = 0; pp < 4; ++pp) {
          ClassBytes held{};
          for (BufferId id : plan.persistent(ProgramId{pp}))
            held[static_cast<std::size_t>(plan.buffer(id).cls)] += Plan::own_bytes(plan.buffer(id));
          const StaticBytes fixed = static_bytes(*s, pp, zero);
          CAPTURE(pp);
          CHECK(held[static_cast<std::size_t>(BufferClass::param)] == fixed.param);
          CHECK(held[static_cast<std::size_t>(BufferClass::optim)] == fixed.optim);
        }
      }
  }
}

TEST_CASE("N6: zbv with deferred_parity crosses sends and receives of an edge; deferred does not") {
  Layout l;
  l.pp = 2, l.kind = "zbv", l.receive = "deferred_parity";
  const Verification parity = verify_plan(built(l));
  const std::string text = to_text(parity.errors);
  CHECK(text.find("V7 edge:0->1") != std::string::npos);
  CHECK_FALSE(parity.rendezvous);
  l.receive = "deferred";
  const Verification deferred = verify_plan(built(l));
  CHECK(to_text(deferred.errors).find("V7") == std::string::npos);
  CHECK(deferred.rendezvous);
}

TEST_CASE("N5: deferred_parity on a shared communicator is stuck at (b)") {
  const Verification v = verify_plan(built({1, 1, 2, 4, "1f1b", "deferred_parity", "pair"}));
  CHECK_FALSE(v.rendezvous);
  CHECK(to_text(v.errors).find("V6.b stuck. ") != std::string::npos);
}

TEST_CASE("a large built plan is verified in seconds") {
  const Plan plan = built({2, 2, 4, sim::scaled(6000), "1f1b"});
  const auto start = std::chrono::steady_clock::now();
  const Verification v = verify_plan(plan);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  MESSAGE(plan.ops.size() << " ops: " << seconds << " s");
  CHECK_MESSAGE(v.ok(), to_text(v.errors));
  CHECK(v.serial_launch);
  CHECK(v.programs[0].peak_w == 4);
}
