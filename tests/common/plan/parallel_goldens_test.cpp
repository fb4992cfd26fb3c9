// Goal    what a rank hands over, by tag, equals the goldens of models.md 7.2 (C1, C2, C4, C6),
// whose
//         counts and bytes came from an independent prototype.
// Method  the rows of that table, written out; rows that are known only at run time are balanced in
//         the plan, so of them only the calls are held.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <string>

#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/totals.h"
#include "common/scenario/read.h"
#include "sim/memory/tracker.h"

namespace tandem {
namespace {

// "attn.in all_gather 8 x 6656": one line for each tag, kind and size; sorted.
std::map<std::string, std::int64_t> calls_of(const std::string& text, int program) {
  const auto scenario = read_scenario_text("t.yaml", "tandem: 1\n" + text);
  REQUIRE(scenario.ok());
  const auto plan = build_plan(*scenario);
  REQUIRE(plan.ok());
  std::map<std::string, std::int64_t> out;
  for (const TagTotal& t : tag_totals(*plan, ProgramId{program}))
    out[fmt::format("{} {} {}", plan->name(t.tag), name_of(t.kind), t.bytes_in)] += t.calls;
  return out;
}

using Calls = std::map<std::string, std::int64_t>;

// Of `got` those with these tags.
Calls only(const Calls& got, const std::string& first_letters) {
  Calls out;
  for (const auto& [key, n] : got)
    if (key.starts_with(first_letters)) out[key] = n;
  return out;
}

}  // namespace

TEST_CASE("C1, C2: llama-tiny on tp 2, dp 2, without and with sequence parallelism") {
  const std::string job =
      "model: llama-tiny\ntraining: {micro_batch: 2, global_batch: 8}\nparallel: {tp: 2, dp: 2";
  const Calls plain = calls_of(job + "}\n", 0);
  std::int64_t reduced = 0;
  for (const auto& [key, n] : plain)
    if (key.ends_with("all_reduce 16384")) reduced += n;
  CHECK(reduced == 68);
  CHECK(only(plain, "ce.") == Calls{{"ce.max all_reduce 256", 2}, {"ce.sum all_reduce 512", 2}});
  CHECK(only(plain, "grad.") == Calls{{"grad.dp all_reduce 659968", 1}});
  CHECK(only(plain, "norm") == Calls{{"norm all_reduce 8", 1}});

  const Calls sp = calls_of(job + ", sequence_parallel: true}\n", 0);
  std::int64_t gathers = 0, scatters = 0;
  for (const auto& [key, n] : sp) {
    if (key.ends_with("all_gather 8192")) gathers += n;
    if (key.ends_with("reduce_scatter 16384")) scatters += n;
  }
  CHECK(gathers == 34 + 34 + 34);  // forward, dy, x again for W
  CHECK(scatters == 68);
  CHECK(only(sp, "grad.") ==
        Calls{{"grad.dp all_reduce 655360", 1}, {"grad.stage all_reduce 5120", 1}});
}

TEST_CASE("C4: deepseek-tiny on tp 2, pp 2, dp 2, ep 4") {
  const std::string job =
      "model: deepseek-tiny\ntraining: {micro_batch: 2, global_batch: 8}\n"
      "parallel: {tp: 2, pp: 2, dp: 2, ep: 4, sequence_parallel: true}\n";
  const Calls first = calls_of(job, 0);
  CHECK(only(first, "attn.in") == Calls{{"attn.in all_gather 6656", 8},
                                        {"attn.in all_gather 6144", 8},
                                        {"attn.in reduce_scatter 13312", 8}});
  CHECK(only(first, "attn.out") ==
        Calls{{"attn.out reduce_scatter 16384", 8}, {"attn.out all_gather 8192", 8}});
  CHECK(only(first, "mlp.in") ==
        Calls{{"mlp.in all_gather 8192", 4}, {"mlp.in reduce_scatter 16384", 2}});
  CHECK(only(first, "mlp.out") ==
        Calls{{"mlp.out reduce_scatter 16384", 2}, {"mlp.out all_gather 8192", 2}});
  CHECK(only(first, "shared.in") ==
        Calls{{"shared.in all_gather 8192", 12}, {"shared.in reduce_scatter 16384", 6}});
  CHECK(only(first, "shared.out") ==
        Calls{{"shared.out reduce_scatter 16384", 6}, {"shared.out all_gather 8192", 6}});
  CHECK(only(first, "embed") ==
        Calls{{"embed reduce_scatter 16384", 2}, {"embed all_gather 8192", 2}});
  CHECK(only(first, "aux") == Calls{{"aux all_reduce 128", 6}});
  CHECK(only(first, "cnt") == Calls{{"cnt all_to_all 32", 6}});
  CHECK(only(first, "disp") == Calls{{"disp all_to_all 16384", 12}});  // balanced in I
  CHECK(only(first, "comb") == Calls{{"comb all_to_all 16384", 12}});
  CHECK(only(first, "act") == Calls{{"act send 8192", 2}});
  CHECK(only(first, "grad.") ==
        Calls{{"grad.stage all_reduce 63488", 1}, {"grad.dp all_reduce 155648", 1}});
  CHECK(only(first, "bias") == Calls{{"bias all_reduce 96", 1}});

  const Calls last = calls_of(job, 1);
  CHECK(only(last, "head") == Calls{{"head all_gather 8192", 4}, {"head reduce_scatter 16384", 2}});
  CHECK(only(last, "ce.") == Calls{{"ce.max all_reduce 256", 2}, {"ce.sum all_reduce 512", 2}});
  CHECK(only(last, "grad.") ==
        Calls{{"grad.stage all_reduce 66560", 1}, {"grad.dp all_reduce 118784", 1}});
  CHECK(only(last, "bias") == Calls{{"bias all_reduce 128", 1}});
  CHECK(only(last, "aux") == Calls{{"aux all_reduce 128", 8}});
}

// The closed forms of common/parallel/memory.h are what the plan keeps.
TEST_CASE("layers with experts and latents keep what the closed forms say") {
  for (const char* text :
       {"model: mixtral-tiny\n", "model: mixtral-tiny\nparallel: {dp: 2, ep: 2}\n",
        "model: mixtral-tiny\nparallel: {tp: 2, dp: 2, ep: 4, zero: 2}\n", "model: deepseek-tiny\n",
        "model: deepseek-tiny\nparallel: {tp: 2, dp: 2, ep: 4}\n",
        "model: deepseek-tiny\nparallel: {tp: 4, dp: 2, ep: 8, zero: 1}\n"}) {
    CAPTURE(text);
    const auto s = read_scenario_text("t.yaml", std::string("tandem: 1\n") + text);
    REQUIRE(s.ok());
    const auto plan = build_plan(*s);
    REQUIRE(plan.ok());
    const auto of = [](const ClassBytes& bytes, BufferClass c) {
      return bytes[static_cast<std::size_t>(c)];
    };
    const auto memory = sim::track_memory(*plan)[0];
    const KeptBytes kept = kept_bytes(*s, 0, 1);
    CHECK(of(memory.peak.by_class, BufferClass::saved_input) == kept.saved_input);
    CHECK(of(memory.peak.by_class, BufferClass::saved_weight) == kept.saved_weight);
    CHECK(of(memory.peak.by_class, BufferClass::logits) == kept.logits);
    const StaticBytes fixed = static_bytes(*s, 0, s->parallel.zero);
    CHECK(of(memory.persistent, BufferClass::param) == fixed.param);
    CHECK(of(memory.persistent, BufferClass::grad) == fixed.grad);
    CHECK(of(memory.persistent, BufferClass::optim) == fixed.optim);
  }
}

TEST_CASE("C6 and models.md 4.6: llama-tiny on dp 2, every level of ZeRO") {
  const auto zero = [](const std::string& parallel) {
    return calls_of(
        "model: llama-tiny\ntraining: {micro_batch: 2, global_batch: 8}\n"
        "parallel: {dp: 2" +
            parallel + "}\n",
        0);
  };
  CHECK(only(zero(""), "grad.") == Calls{{"grad.dp all_reduce 1315328", 1}});
  for (const char* level : {", zero: 1", ", zero: 2, zero_reduce: last"}) {
    const Calls c = zero(level);
    CHECK(only(c, "grad.") == Calls{{"grad.dp reduce_scatter 1315328", 1}});
    CHECK(only(c, "param.") == Calls{{"param.dp all_gather 657664", 1}});
  }
  CHECK(only(zero(", zero: 2"), "grad.") == Calls{{"grad.dp reduce_scatter 1315328", 2}});
  const Calls c = zero(", zero: 3");
  std::int64_t scattered = 0, gathered = 0;
  for (const auto& [key, n] : c) {
    const std::int64_t bytes = std::stoll(key.substr(key.rfind(' ')));
    if (key.starts_with("grad.dp reduce_scatter")) scattered += n * bytes;
    if (key.starts_with("param.dp all_gather")) gathered += n * bytes;
  }
  CHECK(scattered == 2'630'656);
  CHECK(gathered == 2'565'120);
}

}  // namespace tandem
