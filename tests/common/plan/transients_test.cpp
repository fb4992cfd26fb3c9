// Goal    what lives only for a moment has the peak that its closed forms say (models.md 6,
//         common/parallel/transient.cpp): layers with experts and with latent attention, with and
//         without tensor, sequence, expert and expert tensor parallelism.
// Method  the plan's peak of each class, walked by the tracker, on layouts times batches times
//         stages; receives just before their consumer, so that no message waits.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "common/parallel/memory.h"
#include "sim/memory/tracker.h"
#include "tests/common/plan/plan_of.h"
#include "tests/sim/scale.h"

namespace tandem {
namespace {

void check_transients(const std::string& text) {
  // With TANDEM_TEST_SCALE 0.1 (sanitizers) every tenth layout.
  static int number = 0;
  if (number++ % std::max(1, 10 / sim::scaled(10)) != 0) return;
  CAPTURE(text);
  const Scenario s = scenario(text);
  REQUIRE(has_transient_form(s));
  const Plan plan = plan_of(s);
  const auto memory = sim::track_memory(plan);
  for (int p = 0; p < s.parallel.pp; ++p) {
    CAPTURE(p);
    const auto& peak = memory[static_cast<std::size_t>(p)].peak;
    const auto of = [&peak](BufferClass c) { return peak.by_class[static_cast<std::size_t>(c)]; };
    const int open = open_visits(s, p).value();
    const KeptBytes kept = kept_bytes(s, p, open);
    const TransientBytes moving = transient_bytes(s, p);
    if (s.training.recompute == Recompute::none) {  // else with the layer that is made again
      CHECK(of(BufferClass::saved_input) == kept.saved_input);
      CHECK(of(BufferClass::saved_weight) == kept.saved_weight);
    }
    CHECK(of(BufferClass::activation) == moving.activation);
    CHECK(of(BufferClass::grad_activation) == moving.grad_activation);
    CHECK(of(BufferClass::scratch) == moving.scratch);
    CHECK(of(BufferClass::comm) == kept.comm + moving.comm);
    if (s.parallel.zero < 2) CHECK(peak.total <= peak_bound(s, p, open));
  }
}

}  // namespace

TEST_CASE("transients: experts and latents, on every kind of mesh") {
  int plans = 0;
  for (const char* model :
       {"mixtral-tiny", "deepseek-tiny", "{preset: deepseek-tiny, moe: {shared_experts: 2}}",
        "{preset: mixtral-tiny, moe: {balance: {expert_loss: 0}}}",
        "{preset: deepseek-tiny, moe: {dense_first: 7}}",
        "{preset: mixtral-tiny, hidden: 32, moe: {expert_hidden: 256, top_k: 4}}",
        "{preset: deepseek-tiny, moe: {every: 2, balance: {bias_update: 0}}}",
        "{preset: deepseek-tiny, mla: {q_rank: 0}}"})
    for (const char* mesh :
         {"", "dp: 2", "dp: 2, ep: 2", "dp: 4, ep: 2, zero: 1", "tp: 2", "tp: 2, ep: 2",
          "tp: 2, dp: 2, ep: 2, etp: 2", "tp: 2, dp: 2, ep: 4", "tp: 2, dp: 4, ep: 4, etp: 2",
          "dp: 2, etp: 2", "tp: 2, vocab_parallel: false"})
      for (int stages : {1, 2, 4})
        for (int microbatches : {1, 2, 5})
          for (const char* kind : {"gpipe", "1f1b"}) {
            const int dp = std::string(mesh).find("dp: 4") != std::string::npos   ? 4
                           : std::string(mesh).find("dp: 2") != std::string::npos ? 2
                                                                                  : 1;
            const char* precision = microbatches == 2   ? "bf16"
                                    : microbatches == 5 ? "fp64"
                                                        : "fp32";
            check_transients(fmt::format(
                "model: {}\ntraining: {{micro_batch: 2, global_batch: {}, precision: {}}}\n"
                "parallel: {{pp: {}{}{}}}\nschedule: {{kind: {}, receive: deferred_parity}}\n",
                model, 2 * dp * microbatches, precision, stages, *mesh ? ", " : "", mesh, kind));
            ++plans;
          }
  CHECK(plans == 8 * 11 * 3 * 3 * 2);
}

TEST_CASE("transients: llama with latents alone is a dense model on tensor ranks") {
  for (const char* mesh : {"tp: 2", "tp: 4", "tp: 2, sequence_parallel: true", "dp: 2"})
    for (int microbatches : {1, 3})
      for (const char* q_rank : {"32", "0"})
        check_transients(
            fmt::format("model: {{preset: deepseek-tiny, moe: {{dense_first: 8}}, "
                        "mla: {{q_rank: {}}}}}\n"
                        "training: {{micro_batch: 2, global_batch: {}}}\nparallel: {{{}}}\n"
                        "schedule: {{kind: 1f1b, receive: deferred_parity}}\n",
                        q_rank, 4 * microbatches, mesh));
}

TEST_CASE("transients: layers that are computed again") {
  for (const char* model : {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny",
                            "{preset: mixtral-tiny, moe: {balance: {expert_loss: 0}}}",
                            "{preset: deepseek-tiny, moe: {shared_experts: 4, dense_first: 5}}",
                            "{preset: deepseek-tiny, mla: {q_rank: 0}}"})
    for (const char* recompute : {"full", "selective", "{layers: 1}", "{layers: 3}"})
      for (const char* attention : {"flash", "materialised"})
        for (const char* mesh : {"", "tp: 2", "tp: 2, sequence_parallel: true", "dp: 2, ep: 2",
                                 "tp: 2, dp: 2, ep: 2, etp: 2"})
          for (int stages : {1, 2})
            for (int microbatches : {1, 4}) {
              const bool experts = std::string(model).find("l-tiny") != std::string::npos ||
                                   std::string(model).find("k-tiny") != std::string::npos;
              const bool flash = std::string(attention) == "flash";
              if (!experts && std::string(mesh).find("ep: ") != std::string::npos) continue;
              if (!flash && std::string(recompute) == "selective") continue;  // has no form
              check_transients(fmt::format(
                  "model: {}\ntraining: {{micro_batch: 2, global_batch: {}, recompute: {}, "
                  "attention: {}}}\nparallel: {{pp: {}{}{}}}\n"
                  "schedule: {{kind: 1f1b, receive: deferred_parity}}\n",
                  model, 4 * microbatches, recompute, attention, stages, *mesh ? ", " : "", mesh));
            }
}

TEST_CASE("transients: with gradients and parameters in shards the same, beside those themselves") {
  for (const char* model : {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny"})
    for (const char* recompute : {"none", "full", "{layers: 1}"})
      for (int zero : {2, 3})
        for (const char* mesh : {"dp: 2", "dp: 2, tp: 2", "dp: 2, tp: 2, sequence_parallel: true",
                                 "dp: 4, ep: 2", "dp: 4, ep: 4", "tp: 2, dp: 4, ep: 2, etp: 2"})
          for (int stages : {1, 2})
            for (int microbatches : {1, 4})
              for (const char* reduce : {"last", "every"}) {
                const bool experts = std::string(model).find("l-tiny") != std::string::npos ||
                                     std::string(model).find("k-tiny") != std::string::npos;
                if (!experts && std::string(mesh).find("ep: ") != std::string::npos) continue;
                check_transients(fmt::format(
                    "model: {}\ntraining: {{micro_batch: 2, global_batch: {}, recompute: {}}}\n"
                    "parallel: {{pp: {}, {}, zero: {}, zero_reduce: {}, "
                    "gradient_reduce: {{bucket: 64 KiB}}}}\n"
                    "schedule: {{kind: 1f1b, receive: deferred_parity}}\n",
                    model, 8 * microbatches, recompute, stages, mesh, zero, reduce));
              }
}

TEST_CASE("transients: what has no form says so") {
  for (const char* text :
       {"model: llama-tiny\ntraining: {recompute: selective, attention: materialised}\n",
        "model: mixtral-tiny\nparallel: {cp: 2}\n",
        "model: nano-train\nparallel: {ep: 2, mapping: nano_train}\n"})
    CHECK_FALSE(has_transient_form(scenario(text)));
}

}  // namespace tandem
