// Goal    plans of mapping nano_train (models.md 3.2, 4.5, 4.8, 4.9): what is cut out for the
// experts
//         and gathered behind them, which gradients are summed over which ranks and how often an
//         element counts in the norm, who reads which batches.
// Method  calls and bytes by hand for deepseek-tiny, H 64, S 32, layer 0 dense, 7 layers with
//         experts, E 8, K 2, Fe 32, one shared expert; memory against common/parallel/memory.h.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

#include "common/model/flops.h"
#include "common/parallel/groups.h"
#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "common/plan/totals.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"
#include "sim/memory/tracker.h"
#include "tests/common/plan/plan_equal.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

Scenario scenario(const std::string& model, const std::string& parallel, int micro_batch) {
  const auto s = read_scenario_text(
      "t.yaml", fmt::format("tandem: 1\nmodel: {}\ntraining: {{micro_batch: {}, global_batch: 8}}\n"
                            "parallel: {{mapping: nano_train, {}}}\n",
                            model, micro_batch, parallel));
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : s.error().diagnostics[0].title));
  return *s;
}

// "moe.gather all_gather 4096" -> calls, of one rank of a program.
using Calls = std::map<std::string, std::int64_t>;

Calls calls_of(const Plan& plan, const std::string& first_letters, int program = 0) {
  Calls out;
  for (const TagTotal& t : tag_totals(plan, ProgramId{program}))
    if (plan.name(t.tag).starts_with(first_letters))
      out[fmt::format("{} {} {} {}", plan.name(plan.communicators[t.comm.index()].name),
                      plan.name(t.tag), name_of(t.kind), t.bytes_in)] += t.calls;
  return out;
}

// Owner axes of all sum_squares calls of a program, as text, by class of the tensors.
std::map<std::string, int> norm_owners(const Plan& plan) {
  std::map<std::string, int> out;
  for (const Kernel& k : plan.kernels) {
    if (k.kind != KernelKind::sum_squares) continue;
    std::string axes;
    for (int a = 0; a < kNumAxes; ++a)
      if (k.owner.has(static_cast<Axis>(a)))
        axes += std::string(name_of(static_cast<Axis>(a))) + " ";
    ++out[axes];
  }
  return out;
}

const std::vector<std::string> kMeshes = {"ep: 2",
                                          "ep: 2, ep_data: replicate",
                                          "tp: 2",
                                          "tp: 2, ep: 2",
                                          "tp: 2, pp: 2, ep: 2",
                                          "tp: 2, ep: 2, dp: 2, zero: 1",
                                          "pp: 2, ep: 2, dp: 2, zero: 2, ep_data: replicate",
                                          "ep: 2, dp: 2, zero: 3"};

}  // namespace

// b 4, m 2, t 2: X = 4 * 32 * 64 * 4 = 32,768 B, a slice is half of it.
TEST_CASE("nano_train: the slice of the sequence, and what it adds to the plan") {
  const Plan plan = plan_of(scenario("deepseek-tiny", "tp: 2, ep: 1", 4));
  // 7 layers, 2 microbatches; backward the other way round.
  CHECK(calls_of(plan, "moe.") ==
        Calls{{"tp moe.gather all_gather 16384", 14}, {"tp moe.slice all_gather 16384", 14}});
  CHECK(calls_of(plan, "shared.").empty());  // whole on each tensor rank
  CHECK(calls_of(plan, "attn.out") == Calls{{"tp attn.out all_reduce 32768", 16}});
  CHECK(calls_of(plan, "mlp.") ==
        Calls{{"tp mlp.in all_reduce 32768", 2}, {"tp mlp.out all_reduce 32768", 2}});
  // Statistics of the balance losses: 2 rows, 4 sequences, 8 experts, of both slices.
  CHECK(calls_of(plan, "aux") == Calls{{"tp aux all_reduce 256", 14}});
  int forward = 0, backward = 0;
  for (const Op& op : plan.ops)
    for (const Call& c : plan.calls_of(op))
      if (plan.kernel(c.kernel).kind == KernelKind::own_rows_fwd)
        ++(op.phase == Phase::F ? forward : backward);
  CHECK(forward == 14);
  CHECK(backward == 14);
}

// models.md 4.8. t 2, e 2, d 2: whole and cut tensors over (dp, ep), experts over (dp, tp), router
// and shared experts over all three. Elements of a rank, d2 e2: experts 4 of 8.
TEST_CASE("nano_train: each class of gradients is summed over its group") {
  const auto sums = [](const std::string& parallel, int b) {
    return calls_of(plan_of(scenario("deepseek-tiny", parallel, b)), "grad.");
  };
  // 7 layers: experts 4 * 3 * 32 * 64 = 24,576 elements; router 512 and shared 3 * 32 * 64 = 6,144.
  const Bytes experts = 4 * 7 * 24'576, routers = 4 * 7 * (512 + 6'144);
  const Calls split = sums("tp: 2, ep: 2, dp: 2", 1);
  CHECK(split.size() == 3);
  CHECK(split.contains(fmt::format("edp grad.exp all_reduce {}", experts)));
  // Padded to 64 * 8.
  CHECK(split.contains(
      fmt::format("stage grad.stage all_reduce {}", (routers / 4 + 511) / 512 * 512 * 4)));
  bool dense = false;
  for (const auto& [key, n] : split) dense = dense || key.starts_with("dp_ep grad.dp all_reduce ");
  CHECK(dense);
  // Replicate: dense over dp, router and shared over (dp, tp); experts too, but in a bucket of
  // their own, because they are divided by e.
  const Calls replicate = sums("tp: 2, ep: 2, dp: 2, ep_data: replicate", 2);
  CHECK(replicate.size() == 3);
  CHECK(replicate.contains(fmt::format("edp grad.exp all_reduce {}", experts)));
  CHECK(replicate.contains(
      fmt::format("edp grad.stage all_reduce {}", (routers / 4 + 255) / 256 * 256 * 4)));
  // Alone over ep nothing is summed, experts are divided all the same.
  CHECK(sums("ep: 2, ep_data: replicate", 4).empty());
  for (const auto& [parallel, factor] :
       {std::pair<std::string, double>{"ep: 2, ep_data: replicate", 0.5},
        {"ep: 4, ep_data: replicate", 0.25},
        {"ep: 2", 0},
        {"tp: 2, ep_data: replicate", 0}}) {
    const std::string& layout = parallel;  // clang 14 cannot capture a structured binding
    CAPTURE(layout);
    double found = 0;
    for (const Kernel& k : plan_of(scenario("deepseek-tiny", parallel, 4)).kernels)
      if (k.kind == KernelKind::grad_scale) found = k.real.value_or(-1);
    CHECK(found == factor);
  }
}

// models.md 4.9: dense also ep = 0, experts tp = dp = 0; with ZeRO the own shard, in replicate of
// the dense ones still ep = 0.
TEST_CASE("nano_train: each element counts once in the norm") {
  const auto owners = [](const std::string& parallel, int b) {
    return norm_owners(plan_of(scenario("deepseek-tiny", parallel, b)));
  };
  CHECK(owners("tp: 2, ep: 2, dp: 2", 1) ==
        std::map<std::string, int>{{"cp dp ep ", 1}, {"tp cp dp ep ", 2}, {"tp dp ", 1}});
  // Shards over (dp, ep), (tp, dp) and (tp, dp, ep): what is left is tp of the whole tensors, which
  // lie in one bucket with the cut ones.
  CHECK(owners("tp: 2, ep: 2, dp: 2, zero: 1", 1) ==
        std::map<std::string, int>{{"cp ", 2}, {"tp cp ", 1}, {"", 1}});
  CHECK(owners("ep: 2, dp: 2, zero: 1, ep_data: replicate", 2) ==
        std::map<std::string, int>{{"cp ep ", 2}, {"tp cp ep ", 1}, {"", 1}});
}

TEST_CASE("nano_train: who reads which sequences") {
  const auto header = [](const std::string& parallel) {
    return plan_of(scenario("deepseek-tiny", parallel, 1)).header;
  };
  const PlanHeader split = header("ep: 2, dp: 2");
  CHECK(split.microbatches == 2);
  const auto index = [](const PlanHeader& h, int rank) {
    const auto group = h.mesh.group_of(Rank{rank}, h.data_axes);
    return std::find(group.begin(), group.end(), Rank{rank}) - group.begin();
  };
  // rank = dp * e + ep, and so is the data index (models.md 3.2).
  for (int rank = 0; rank < 4; ++rank) CHECK(index(split, rank) == rank);
  const PlanHeader replicate = header("ep: 2, dp: 2, ep_data: replicate");
  CHECK(replicate.microbatches == 4);
  for (int rank = 0; rank < 4; ++rank) CHECK(index(replicate, rank) == rank / 2);
  CHECK(plan_of(scenario("deepseek-tiny", "ep: 2, ep_data: replicate", 1)).replicates_data());
  CHECK_FALSE(plan_of(scenario("deepseek-tiny", "ep: 2", 1)).replicates_data());
  CHECK_FALSE(plan_of(scenario("deepseek-tiny", "tp: 2, ep_data: replicate", 1)).replicates_data());
}

TEST_CASE("nano_train: plans verify, read back, and hold what the closed forms say") {
  for (const char* model : {"mixtral-tiny", "deepseek-tiny"})
    for (const std::string& parallel : kMeshes) {
      CAPTURE(model);
      CAPTURE(parallel);
      const Scenario s = scenario(model, parallel, 1);
      const Plan plan = plan_of(s);
      const Verification v = verify_plan(plan);
      REQUIRE_MESSAGE(v.errors.empty(), to_text(v.errors));
      CHECK(v.deadlock_free);
      const std::string text = print(plan);
      const auto back = parse_plan(text, "plan.txt");
      REQUIRE_MESSAGE(back.ok(), (back.ok() ? "" : back.error().diagnostics[0].title));
      CHECK(print(*back) == text);
      check_equal(plan, *back);
      const auto memory = sim::track_memory(plan);
      for (int pp = 0; pp < s.parallel.pp; ++pp) {
        CAPTURE(pp);
        CHECK(executed_flops(plan, ProgramId{pp}) == executed_flops_of_rank(s, pp));
        const auto of = [](const ClassBytes& bytes, BufferClass c) {
          return bytes[static_cast<std::size_t>(c)];
        };
        const sim::ProgramMemory& m = memory[static_cast<std::size_t>(pp)];
        const StaticBytes fixed = static_bytes(s, pp, s.parallel.zero);
        if (s.parallel.zero < 3) {  // there buckets are units
          CHECK(of(m.persistent, BufferClass::param) == fixed.param);
          CHECK(of(m.persistent, BufferClass::grad) == fixed.grad);
          CHECK(of(m.persistent, BufferClass::optim) == fixed.optim);
        }
        if (pp < s.parallel.pp - 1) continue;  // of the others receives may come early
        const KeptBytes kept = kept_bytes(s, pp, 1);
        CHECK(of(m.peak.by_class, BufferClass::saved_weight) == kept.saved_weight);
        if (s.parallel.pp == 1)
          CHECK(of(m.peak.by_class, BufferClass::saved_input) == kept.saved_input);
      }
    }
}

}  // namespace tandem
