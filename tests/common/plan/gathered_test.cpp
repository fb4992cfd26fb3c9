// Goal    what ZeRO 2 and 3 hold whole for a moment, parameters (param_full) and gradients
//         (grad_full), and the bound of the whole rank, are what their closed forms say
//         (common/parallel/gathered.h); where a form is no equality it is a bound, and near.
// Method  the plan's peak of each class, walked by the tracker, over families, schedules, meshes,
//         types, sizes of buckets, ways to scatter and to gather. Shards too: at level 3 units are
//         padded for themselves.
#include "common/parallel/gathered.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

#include "common/parallel/groups.h"
#include "common/parallel/held.h"
#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "sim/memory/tracker.h"
#include "tests/common/plan/plan_of.h"
#include "tests/sim/scale.h"

namespace tandem {
namespace {

// How many programs a form was exact for, and how many it bounded: param_full, grad_full.
struct Count {
  std::array<int, 2> exact{}, bounded{};
  int totals = 0;
};

void check_class(const std::optional<WholeBytes>& form, Bytes peak, std::size_t which, bool near,
                 Count& n) {
  REQUIRE(form.has_value());
  if (form->exact) {
    CHECK(peak == form->most);
    n.exact[which] += peak > 0;
  } else {
    CHECK(peak <= form->most);
    if (near) CHECK(form->most <= 4 * peak);  // a bound that says something
    ++n.bounded[which];
  }
}

void check(const std::string& text, Count& n) {
  // With TANDEM_TEST_SCALE 0.1 (sanitizers) every tenth layout.
  static int number = 0;
  if (number++ % std::max(1, 10 / sim::scaled(10)) != 0) return;
  CAPTURE(text);
  const Scenario s = scenario(text);
  const Plan plan = plan_of(s);
  const Result<Order> order = computing_order(s);
  REQUIRE(order.ok());
  const auto memory = sim::track_memory(plan);
  for (int p = 0; p < s.parallel.pp; ++p) {
    CAPTURE(p);
    const auto held = held_along(s, *order, p);
    REQUIRE(held.has_value());
    const auto& peak = memory[static_cast<std::size_t>(p)].peak;
    const auto of = [&peak](BufferClass c) { return peak.by_class[static_cast<std::size_t>(c)]; };
    const StaticBytes fixed = static_bytes(s, p, s.parallel.zero);
    CHECK(of(BufferClass::param) == fixed.param);
    CHECK(of(BufferClass::grad) == fixed.grad);
    CHECK(of(BufferClass::optim) == fixed.optim);
    check_class(gathered_parameters(s, p), of(BufferClass::param_full), 0, true, n);
    if (held->splits) {
      CHECK_FALSE(whole_gradients(s, p, true).has_value());
      continue;
    }
    check_class(whole_gradients(s, p, false), of(BufferClass::grad_full), 1, scatters_every(s), n);
    if (!has_transient_form(s)) continue;
    CHECK(peak.total <= peak_bound(s, p, held->peak));
    ++n.totals;
  }
}

std::string job(const std::string& model, const std::string& training, int microbatches, int data,
                const std::string& parallel, const std::string& schedule) {
  return fmt::format(
      "model: {}\ntraining: {{micro_batch: 1, global_batch: {}{}}}\nparallel: {{{}}}\n"
      "schedule: {{{}}}\n",
      model, data * microbatches, training, parallel, schedule);
}

}  // namespace

TEST_CASE("whole for a moment: families, meshes, types, buckets, scatters") {
  Count n;
  for (const char* model :
       {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny",
        "{preset: llama-tiny, tied_embeddings: true}", "{preset: gpt-tiny, tied_embeddings: false}",
        "{preset: deepseek-tiny, mla: {q_rank: 0}, moe: {dense_first: 8}}"})
    for (const char* mesh : {"dp: 2", "dp: 2, tp: 2", "dp: 2, tp: 2, sequence_parallel: true",
                             "dp: 4, ep: 2", "dp: 2, tp: 2, vocab_parallel: false"})
      for (int zero : {2, 3})
        for (const char* reduce : {"every", "last"})
          for (const char* precision : {"fp32", "bf16"})
            for (const char* bucket : {"40 MiB", "20 KiB"})
              for (int pp : {1, 2})
                for (int microbatches : {1, 3}) {
                  const std::string m = model, on = mesh;
                  const bool experts = m.find("mixtral") != std::string::npos ||
                                       m.find("deepseek") != std::string::npos;
                  if (!experts && on.find("ep: ") != std::string::npos) continue;
                  check(job(m, fmt::format(", precision: {}", precision), microbatches,
                            on.find("dp: 4") != std::string::npos ? 8 : 2,
                            fmt::format("{}, pp: {}, zero: {}, zero_reduce: {}, gradient_reduce: "
                                        "{{bucket: {}}}",
                                        mesh, pp, zero, reduce, bucket),
                            "kind: 1f1b"),
                        n);
                }
  // Both kinds of answer are tested, for both classes.
  CHECK(n.exact[0] > n.bounded[0]);
  CHECK(n.bounded[0] > 0);
  CHECK(n.exact[1] > 0);
  CHECK(n.bounded[1] > 0);
  CHECK(n.totals > 0);
}

TEST_CASE("whole for a moment: gathered ahead, kept in a window, not hidden") {
  Count n;
  for (const char* model : {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny"})
    for (const char* gather :
         {"prefetch: 0", "prefetch: 2", "prefetch: 20", "overlap: false", "residency: window",
          "residency: window, window: 1", "residency: window, window: 2"})
      for (const char* recompute : {"none", "full", "{layers: 1}"})
        for (const char* kind :
             {"kind: gpipe", "kind: 1f1b", "kind: interleaved_1f1b", "kind: bfs", "kind: hanayo",
              "kind: hanayo, receive: deferred_parity", "kind: zb_h1", "kind: zbv"})
          for (const char* precision : {"fp32", "bf16"})
            check(job(model, fmt::format(", recompute: {}, precision: {}", recompute, precision), 4,
                      2, fmt::format("dp: 2, pp: 2, zero: 3, parameter_gather: {{{}}}", gather),
                      kind),
                  n);
  CHECK(n.exact[0] > n.bounded[0]);
  CHECK(n.bounded[0] > 0);
}

TEST_CASE("whole for a moment: slices, context parallelism, scatters of the last one") {
  Count n;
  for (int zero : {2, 3})
    for (const char* reduce : {"every", "last"})
      for (int microbatches : {1, 2})
        for (const char* model : {"gpt-tiny", "llama-tiny"}) {
          check(job(model, "", microbatches, 2,
                    fmt::format("dp: 2, pp: 2, zero: {}, zero_reduce: {}", zero, reduce),
                    "kind: seq1f1b, slices: 2"),
                n);
          check(job(model, "", microbatches, 2,
                    fmt::format("dp: 2, cp: 2, zero: {}, zero_reduce: {}", zero, reduce),
                    "kind: gpipe"),
                n);
          for (const char* kind : {"kind: interleaved_1f1b", "kind: bfs", "kind: hanayo"})
            check(job(model, "", 4, 2,
                      fmt::format("dp: 2, pp: 2, zero: {}, zero_reduce: {}", zero, reduce), kind),
                  n);
        }
  CHECK(n.exact[1] > 0);
}

TEST_CASE("whole for a moment: levels 0 and 1 have none, and style nano_train no form") {
  const Scenario one = scenario("model: gpt-tiny\nparallel: {dp: 2, zero: 1}\n");
  CHECK(gathered_parameters(one, 0)->most == 0);
  CHECK(whole_gradients(one, 0, false)->most == 0);
  const Scenario nano = scenario(
      "model: nano-train\nparallel: {dp: 2, zero: 2, style: nano_train, mapping: nano_train}\n");
  CHECK_FALSE(whole_gradients(nano, 0, false).has_value());
}

}  // namespace tandem
