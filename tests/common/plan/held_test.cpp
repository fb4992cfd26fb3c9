// Goal    what a rank keeps for open visits, along the order of every kind of schedule
//         (common/parallel/held.h): the plan's peak of each class.
// Method  plans of all kinds without cells of several parts, times models, stages and meshes, with
//         receives just before their consumer (where another stage's turn is not in between); the
//         tracker's peaks. Of kinds that leave the backward whole also the classes that live for a
//         moment (transient.cpp), and the bound.
#include "common/parallel/held.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <set>

#include "common/parallel/groups.h"
#include "sim/memory/tracker.h"
#include "tests/common/plan/plan_of.h"
#include "tests/sim/scale.h"

namespace tandem {
namespace {

constexpr const char* kOneStage[] = {"gpipe", "1f1b", "eager_1f1b", "zb_h1", "zb_h2"};
constexpr const char* kTwoStages[] = {"interleaved_1f1b", "bfs",   "interleaved_zb", "zbv",
                                      "v_half",           "v_min", "hanayo"};

Scenario of(const std::string& model, const std::string& kind, int pp, int microbatches,
            const std::string& more) {
  return scenario(fmt::format(
      "model: {}\ntraining: {{micro_batch: 2, global_batch: {}}}\nparallel: {{pp: {}{}}}\n"
      "schedule: {{kind: {}, receive: deferred_parity}}\n",
      model, 2 * microbatches * (more.find("dp: 2") != std::string::npos ? 2 : 1), pp, more, kind));
}

void check_held(const Scenario& s) {
  static int number = 0;
  if (number++ % std::max(1, 10 / sim::scaled(10)) != 0) return;  // sanitizers: every tenth
  const Plan plan = plan_of(s);
  const auto memory = sim::track_memory(plan);
  const Result<Order> order = computing_order(s);
  REQUIRE(order.ok());
  for (int p = 0; p < s.parallel.pp; ++p) {
    CAPTURE(p);
    const auto& peak = memory[static_cast<std::size_t>(p)].peak;
    const auto got = [&peak](BufferClass c) { return peak.by_class[static_cast<std::size_t>(c)]; };
    const auto held = held_along(s, *order, p);
    REQUIRE(held.has_value());
    // Zigzag and looped placements: a stage's input may have to be received before another stage's
    // turn. Such a message waits in class saved_input, and is all that is not the order's.
    const Bytes ahead = got(BufferClass::saved_input) - held->peak.saved_input;
    const Bytes message = Bytes{s.training.micro_batch} * s.training.sequence * s.model.hidden *
                          size_of(plan_types(s).compute) / (cuts_sequence(s) ? s.parallel.tp : 1);
    CHECK(ahead % message == 0);
    CHECK(ahead >= 0);
    CHECK(ahead <= (s.schedule.stages_per_rank > 1 ? 2 * message : 0));
    CHECK(got(BufferClass::saved_weight) == held->peak.saved_weight);
    CHECK(got(BufferClass::logits) == held->peak.logits);
    CHECK(got(BufferClass::batch) == held->peak.batch);
    if (held->splits) continue;
    CHECK(held->visits == held->visits_weight);
    const TransientBytes moving = transient_bytes(s, p);
    CHECK(got(BufferClass::activation) == moving.activation);
    CHECK(got(BufferClass::grad_activation) == moving.grad_activation);
    CHECK(peak.total <= peak_bound(s, p, held->peak));
  }
}

}  // namespace

TEST_CASE("held: every kind of schedule keeps what its order says") {
  for (const char* model : {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny"})
    for (const char* mesh : {"", ", tp: 2", ", dp: 2, zero: 1"})
      for (int pp : {2, 4})
        for (int microbatches : {4, 8}) {
          std::set<std::string> kinds(std::begin(kOneStage), std::end(kOneStage));
          kinds.insert(std::begin(kTwoStages), std::end(kTwoStages));
          for (const std::string& kind : kinds) {
            CAPTURE(model);
            CAPTURE(mesh);
            CAPTURE(pp);
            CAPTURE(microbatches);
            CAPTURE(kind);
            if (kind == "zb_h2" && microbatches < 2 * pp - 1) continue;
            check_held(of(model, kind, pp, microbatches, mesh));
          }
        }
}

TEST_CASE("held: gpipe and 1f1b are their closed forms") {
  for (const char* kind : {"gpipe", "1f1b"})
    for (int pp : {1, 2, 4})
      for (int microbatches : {1, 3, 8}) {
        const Scenario s = of("mixtral-tiny", kind, pp, microbatches, "");
        const Result<Order> order = computing_order(s);
        REQUIRE(order.ok());
        for (int p = 0; p < pp; ++p) {
          const auto held = held_along(s, *order, p);
          REQUIRE(held.has_value());
          CHECK(held->visits == open_visits(s, p));
          const KeptBytes kept = kept_bytes(s, p, held->visits);
          CHECK(held->peak.saved_input == kept.saved_input);
          CHECK(held->peak.saved_weight == kept.saved_weight);
          CHECK(held->peak.logits == kept.logits);
          CHECK(held->peak.batch == kept.batch);
          CHECK(held->peak.comm == kept.comm);
        }
      }
}

TEST_CASE("held: a slice of a sequence is a visit") {
  const Scenario s = scenario(
      "model: llama-tiny\ntraining: {micro_batch: 2, global_batch: 8}\nparallel: {pp: 2}\n"
      "schedule: {kind: seq1f1b, slices: 4, receive: deferred_parity}\n");
  const Result<Order> order = computing_order(s);
  REQUIRE(order.ok());
  for (int p = 0; p < 2; ++p) {
    const auto held = held_along(s, *order, p);
    REQUIRE(held.has_value());
    CHECK(held->visits == open_visits(s, p));
    CHECK(held->peak.saved_weight == kept_bytes(s, p, held->visits).saved_weight);
  }
}

// zb_h2 delays W more than I: schedules.md, in flight 2p - 1 on the first rank.
TEST_CASE("held: I and W are counted apart, and cells of several parts say so") {
  const Scenario s = of("gpt-tiny", "zb_h1", 4, 8, "");
  const Result<Order> order = computing_order(s);
  REQUIRE(order.ok());
  const auto last = held_along(s, *order, 3);
  REQUIRE(last.has_value());
  CHECK(last->splits);
  CHECK(last->visits == 1);  // I follows F at once; its W waits
  CHECK(last->visits_weight > 1);
  const Scenario fused = of("gpt-tiny", "dualpipev", 2, 8, "");
  const Result<Order> cells = computing_order(fused);
  REQUIRE(cells.ok());
  CHECK_FALSE(held_along(fused, *cells, 0).has_value());
}

}  // namespace tandem
