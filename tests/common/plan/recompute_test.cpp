// Goal    recomputation does what models.md 6 and 8a say: which calls it issues again, what stays
// of
//         a layer, what is executed; and it changes nothing where there is nothing to make again.
// Method  plans with and without it, of all families, against each other and the closed forms of
//         common/parallel/memory.h and common/model/flops.h.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

#include "common/model/flops.h"
#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/print.h"
#include "common/plan/totals.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"
#include "sim/memory/tracker.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

Scenario with(Scenario s, Recompute r, int layers = 0) {
  s.training.recompute = r;
  s.training.recompute_layers = layers;
  return s;
}

using Calls = std::map<std::string, int>;
Calls calls_of(const Plan& plan, int program, bool again) {
  Calls out;
  for (const Op& o : plan.ops_of(ProgramId{program}))
    if (is_communication(o.kind) && (o.phase == Phase::R) == again)
      ++out[fmt::format("{} {} {}", plan.name(o.tag), name_of(o.kind), Plan::bytes_in(o))];
  return out;
}

const std::vector<std::string> kJobs = {
    "model: gpt-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 2, tp: 2}\n",
    "model: llama-tiny\ntraining: {global_batch: 8, attention: materialised}\nparallel: {pp: 4}\n",
    "model: llama-tiny\ntraining: {global_batch: 8, micro_batch: 2}\n"
    "parallel: {tp: 2, dp: 2, sequence_parallel: true}\nschedule: gpipe\n",
    "model: mixtral-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 2, dp: 2, ep: 2}\n",
    "model: deepseek-tiny\ntraining: {global_batch: 8, attention: materialised}\n"
    "parallel: {tp: 2, pp: 2, dp: 2, ep: 4}\n",
    "model: llama-tiny\ntraining: {global_batch: 8, micro_batch: 2}\n"
    "parallel: {cp: 2, tp: 2, sequence_parallel: true}\n",
    "model: deepseek-tiny\ntraining: {global_batch: 8}\nparallel: {cp: 4, dp: 2, ep: 4}\n"};

}  // namespace

// The goldens of C4 with recompute: full. Its first stage has one dense layer and three with
// experts, and two microbatches.
TEST_CASE("C4 again: what R issues, and what it does not") {
  const Scenario s = scenario(
      "model: deepseek-tiny\ntraining: {micro_batch: 2, global_batch: 8}\n"
      "parallel: {tp: 2, pp: 2, dp: 2, ep: 4, sequence_parallel: true}\n");
  const Plan none = plan_of(s), full = plan_of(with(s, Recompute::full));
  CHECK(verify_plan(full).ok());
  CHECK(calls_of(full, 0, true) == Calls{{"attn.in all_gather 6656", 8},
                                         {"attn.out reduce_scatter 16384", 8},
                                         {"mlp.in all_gather 8192", 2},
                                         {"shared.in all_gather 8192", 6},
                                         {"disp all_to_all 16384", 6},
                                         {"comb all_to_all 16384", 6}});
  for (int program : {0, 1})
    CHECK(calls_of(full, program, false) == calls_of(none, program, false));
  // The first layer of each stage only: dense on stage 0, one with experts on stage 1.
  const Plan first = plan_of(with(s, Recompute::layers, 1));
  CHECK(calls_of(first, 0, true) == Calls{{"attn.in all_gather 6656", 2},
                                          {"attn.out reduce_scatter 16384", 2},
                                          {"mlp.in all_gather 8192", 2}});
  CHECK(calls_of(first, 1, true) == Calls{{"attn.in all_gather 6656", 2},
                                          {"attn.out reduce_scatter 16384", 2},
                                          {"shared.in all_gather 8192", 2},
                                          {"disp all_to_all 16384", 2},
                                          {"comb all_to_all 16384", 2}});
}

// models.md 8a: keys and values go round again; of 3 members in c - 1 = 2 shifts for each of 8
// layers and 4 microbatches, each of 2 * 10 tokens * 64 numbers.
TEST_CASE("a ring goes round again") {
  const Scenario s = scenario(
      "model: llama-tiny\ntraining: {sequence: 30, micro_batch: 2, global_batch: 8}\n"
      "parallel: {cp: 3}\n");
  const Plan none = plan_of(s), full = plan_of(with(s, Recompute::full));
  CHECK(calls_of(full, 0, true) == Calls{{"cp.kv shift 5120", 8 * 4 * 2}});
  CHECK(calls_of(full, 0, false) == calls_of(none, 0, false));
}

TEST_CASE("kept bytes, FLOPs and peaks with every kind of recomputation") {
  for (const std::string& job : kJobs) {
    CAPTURE(job);
    const Scenario plain = scenario(job);
    const Plan none = plan_of(plain);
    const auto memory_of_none = sim::track_memory(none);
    for (const Scenario& s :
         {with(plain, Recompute::full), with(plain, Recompute::layers, 1),
          with(plain, Recompute::layers, 64), with(plain, Recompute::selective)}) {
      CAPTURE(static_cast<int>(s.training.recompute));
      CAPTURE(s.training.recompute_layers);
      const Plan plan = plan_of(s);
      CHECK(verify_plan(plan).ok());
      const auto memory = sim::track_memory(plan);
      const bool nothing = s.training.recompute == Recompute::selective &&
                           s.training.attention == AttentionKind::flash;
      for (int p = 0; p < s.parallel.pp; ++p) {
        CAPTURE(p);
        const auto i = static_cast<std::size_t>(p);
        // What is open at once is kept; one layer more is whole while it goes backward.
        const int open = open_visits(s, p).value();
        const KeptBytes kept = kept_bytes(s, p, open);
        const Bytes working = recompute_working_set(s, p);
        const auto of = [&](BufferClass c) {
          return memory[i].peak.by_class[static_cast<std::size_t>(c)];
        };
        const Bytes saved = of(BufferClass::saved_input) + of(BufferClass::saved_weight);
        CHECK(saved >= kept.saved_input + kept.saved_weight);
        CHECK(saved <= kept.saved_input + kept.saved_weight + working +
                           (s.parallel.pp > 1 ? 8 * 2 * 2048 * 4 : 0));  // received ahead
        CHECK(executed_flops(plan, ProgramId{p}) ==
              doctest::Approx(executed_flops_of_rank(s, p)).epsilon(1e-12));
        if (nothing) {
          CHECK(memory[i].peak.total == memory_of_none[i].peak.total);
        } else {
          CHECK(memory[i].peak.total < memory_of_none[i].peak.total);
          CHECK(executed_flops(plan, ProgramId{p}) > executed_flops(none, ProgramId{p}));
        }
      }
      if (s.training.recompute_layers == 64) {  // more than a stage has: all of them
        Plan full = plan_of(with(plain, Recompute::full));
        full.header.digest = plan.header.digest;
        CHECK(print(full) == print(plan));
      }
      if (nothing) {
        Plan same = none;
        same.header.digest = plan.header.digest;
        CHECK(print(same) == print(plan));
      }
    }
  }
}

// models.md 6: of each layer its input, X1 w, and the choice of experts; here 2 sequences of 32.
TEST_CASE("what a recomputed layer keeps") {
  const Scenario s = scenario("model: mixtral-tiny\ntraining: {micro_batch: 2, recompute: full}\n");
  const Bytes x = 64 * 64 * 4;
  CHECK(layer_kept(s, 0, 0).for_input == x + 8 * 64 * 2);
  CHECK(layer_kept(s, 0, 0).for_weight == 0);
  const Scenario core = scenario(
      "model: llama-tiny\ntraining: {micro_batch: 2, recompute: selective, attention: "
      "materialised}\n");
  const SavedBytes all = sum(layer_saved(core)), kept = layer_kept(core, 0, 0);
  CHECK(all.for_input - kept.for_input == 2 * 4 * 32 * 32 * 4);
  CHECK(all.for_weight == kept.for_weight);
}

// R needs nothing of the stage behind it: none of its ops waits for the gradient that arrives.
TEST_CASE("R does not wait for the gradient of the output") {
  const Plan plan = plan_of(scenario(
      "model: gpt-tiny\ntraining: {global_batch: 8, recompute: full}\nparallel: {pp: 2}\n"));
  int seen = 0;
  for (const Op& o : plan.ops_of(ProgramId{0})) {
    if (o.phase != Phase::R) continue;
    ++seen;
    for (OpId w : plan.waits_of(o)) CHECK(plan.op(w).kind != OpKind::recv);
  }
  CHECK(seen > 0);
}

}  // namespace tandem
