// Goal    style nano_train makes the calls of lastweek/nano-train (models.md 7.1), with the fixes
//         that the table names.
// Method  every row of the table's column "our plan must give", for preset nano-train, fp32, one
//         step, rank 0: kind, group, count and bytes in, written out. Sums over all ranks of the
//         norm and of the metrics are left out, as there. Experts are balanced in a plan: A' = A.
//           T = 512 tokens (16 sequences of 32), H 128, E 8, K 2, A = 1,024 rows, w 4; 4 layers
//           with experts behind a dense one; 163 tensors, 2,173,792 elements
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/model/flops.h"
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

Scenario scenario(const std::string& parallel, const std::string& training) {
  const auto s = read_scenario_text(
      "t.yaml", fmt::format("tandem: 1\nmodel: nano-train\ntraining: {{global_batch: 16, {}}}\n"
                            "parallel: {{style: nano_train, {}}}\n",
                            training, parallel));
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : s.error().diagnostics[0].title));
  return *s;
}

// "tp all_reduce 262144" -> calls, of rank 0, without norm and metrics.
using Calls = std::map<std::string, std::int64_t>;

Calls calls_of(const Plan& plan, const std::string& kind = "") {
  Calls out;
  for (const TagTotal& t : tag_totals(plan, ProgramId{0})) {
    const std::string& group = plan.name(plan.communicators[t.comm.index()].name);
    if (group == "world" || (!kind.empty() && name_of(t.kind) != kind)) continue;
    out[fmt::format("{} {} {}", group, name_of(t.kind), t.bytes_in)] += t.calls;
  }
  return out;
}

struct Sum {
  std::int64_t calls = 0;
  Bytes bytes = 0;
  bool operator==(const Sum&) const = default;
};
// Of one kind, and of tags that begin with one of these letters ("": all).
Sum sum_of(const Plan& plan, OpKind kind, const std::string& tag) {
  Sum out;
  for (const TagTotal& t : tag_totals(plan, ProgramId{0})) {
    if (t.kind != kind || !plan.name(t.tag).starts_with(tag)) continue;
    if (plan.name(plan.communicators[t.comm.index()].name) == "world") continue;
    out.calls += t.calls, out.bytes += t.calls * t.bytes_in;
  }
  return out;
}

constexpr Bytes kAll = 4 * 2'173'792;  // every parameter, fp32

}  // namespace

TEST_CASE("style nano_train, t2: 18 all-reduces of activations, 8 gathers, sums over tp") {
  const Plan plan = plan_of(scenario("tp: 2", "micro_batch: 16"));
  Calls expected = {{"tp all_reduce 262144", 8},  // attention 5, dense MLP 1, dX of gate and of up
                    {"tp all_reduce 131072", 5},  // d of the latents of q
                    {"tp all_reduce 81920", 5},   // those of k and v, with the rope key
                    {"tp all_gather 131072", 8}};
  Calls activations = calls_of(plan);
  const Sum gradients = sum_of(plan, OpKind::all_reduce, "grad.");
  for (auto it = activations.begin(); it != activations.end();)
    it = it->first.starts_with("tp ") ? std::next(it) : activations.erase(it);
  CHECK(activations == expected);
  const Sum all = sum_of(plan, OpKind::all_reduce, "");
  CHECK(all.calls - gradients.calls == 18);
  CHECK(all.bytes - gradients.bytes == 3'162'112);
  // Router, shared and routed experts of 4 layers: 1 + 3 + 24 tensors each.
  CHECK(gradients == Sum{112, 7'094'272});
}

TEST_CASE("style nano_train, e2: 48 all-to-alls and 8 small all-reduces") {
  const Plan plan = plan_of(scenario("ep: 2", "micro_batch: 16"));
  // Of each of 4 layers: counts 16, rows 524,288, token, slot and expert 8,192 each, weight 4,096,
  // counts back 16, rows back, token and slot back; backward the rows both ways.
  CHECK(calls_of(plan) == Calls{{"ep all_to_all 16", 4 * 2},
                                {"ep all_to_all 524288", 4 * 4},
                                {"ep all_to_all 8192", 4 * 5},
                                {"ep all_to_all 4096", 4},
                                {"ep all_reduce 4", 4},
                                {"ep all_reduce 8", 4}});
  CHECK(sum_of(plan, OpKind::all_to_all, "").calls == 48);
  CHECK(sum_of(plan, OpKind::all_reduce, "").calls == 8);
}

TEST_CASE("style nano_train, d2: a call for each of 163 tensors, at each level of ZeRO") {
  const auto of = [](int zero) {
    return plan_of(scenario(fmt::format("dp: 2, zero: {}", zero), "micro_batch: 8"));
  };
  const Plan none = of(0), one = of(1), two = of(2);
  CHECK(sum_of(none, OpKind::all_reduce, "") == Sum{163, kAll});
  CHECK(sum_of(none, OpKind::all_gather, "") == Sum{});
  CHECK(sum_of(one, OpKind::all_reduce, "") == Sum{163, kAll});
  CHECK(sum_of(one, OpKind::all_gather, "") == Sum{163, 4'347'584});
  CHECK(sum_of(two, OpKind::all_reduce, "") == Sum{});
  CHECK(sum_of(two, OpKind::reduce_scatter, "") == Sum{163, kAll});
  CHECK(sum_of(two, OpKind::all_gather, "") == Sum{163, 4'347'584});
  CHECK(kAll == 8'695'168);
}

TEST_CASE("style nano_train, p2 e2 m2, zero 2: labels are sent, no gradient is summed") {
  const auto read = read_scenario_text("t.yaml",
                                       "tandem: 1\nmodel: nano-train\n"
                                       "training: {global_batch: 16, micro_batch: 8}\n"
                                       "parallel: {style: nano_train, pp: 2, ep: 2, zero: 2}\n");
  REQUIRE(read.ok());
  CHECK(read->parallel.world() == 4);
  CHECK(read->num_microbatches() == 2);
  const Plan plan = plan_of(*read);
  CHECK(sum_of(plan, OpKind::send, "labels") == Sum{2, 2 * 2'048});
  CHECK(sum_of(plan, OpKind::send, "act") == Sum{2, 2 * 131'072});
  CHECK(sum_of(plan, OpKind::recv, "grad") == Sum{2, 2 * 131'072});
  CHECK(sum_of(plan, OpKind::send, "").calls == 4);
  CHECK(sum_of(plan, OpKind::all_to_all, "").calls == 48);  // 2 layers, 2 microbatches, 12
  CHECK(sum_of(plan, OpKind::all_reduce, "") == Sum{8, 4 * (4 + 8)});
  CHECK(sum_of(plan, OpKind::reduce_scatter, "") == Sum{});
  CHECK(sum_of(plan, OpKind::all_gather, "") == Sum{});
  // The labels have a communicator of their own.
  for (const Op& op : plan.ops)
    if (plan.name(op.tag) == "labels")
      CHECK(plan.name(plan.communicators[op.comm.index()].name) == "labels");
}

TEST_CASE("style nano_train, p2 e2 d2 m2: 63 tensors of stage 0") {
  const Plan plan = plan_of(scenario("pp: 2, ep: 2, dp: 2", "micro_batch: 4"));
  CHECK(plan.header.microbatches == 2);
  CHECK(sum_of(plan, OpKind::all_reduce, "grad.") == Sum{63, 4 * 759'840});
  CHECK(sum_of(plan, OpKind::all_reduce, "") == Sum{71, 3'039'408});
}

// Reductions stand in module order: those of a layer before those of the next one, the embedding
// first, the head last.
TEST_CASE("style nano_train: gradients are summed in module order, behind all else") {
  const Plan plan = plan_of(scenario("dp: 2", "micro_batch: 8"));
  std::vector<std::string> names;
  bool behind = true;
  for (const Op& op : plan.ops) {
    if (plan.name(op.tag).starts_with("grad."))
      names.push_back(plan.name(plan.buffer(op.buffer).name));
    else if (!names.empty() && op.phase != Phase::O)
      behind = false;
  }
  CHECK(behind);
  REQUIRE(names.size() == 163);
  CHECK(names.front() == "embed.weight");
  CHECK(names.back() == "head.weight");
  const auto at = [&](const std::string& name) {
    const auto it = std::find(names.begin(), names.end(), name);
    REQUIRE_MESSAGE(it != names.end(), name);
    return it - names.begin();
  };
  CHECK(at("layers.0.norm1.weight") < at("layers.0.attn.q_a.weight"));
  CHECK(at("layers.0.attn.q_a.weight") < at("layers.0.attn.kv_a.weight"));
  CHECK(at("layers.0.mlp.gate.weight") < at("layers.0.mlp.up.weight"));
  CHECK(at("layers.0.mlp.down.weight") < at("layers.1.norm1.weight"));
  CHECK(at("layers.1.moe.router.weight") < at("layers.1.moe.experts.local0.gate.weight"));
  CHECK(at("layers.1.moe.experts.local7.down.weight") < at("layers.1.moe.shared.gate.weight"));
}

TEST_CASE("style nano_train: defaults of the seed, and what it refuses") {
  const Scenario s = scenario("ep: 2", "micro_batch: 16");
  CHECK(s.parallel.mapping == Mapping::nano_train);
  CHECK(s.parallel.ep_data == ExpertData::replicate);
  CHECK_FALSE(s.parallel.vocab_parallel);
  CHECK(s.model.moe.scope == BalanceScope::microbatch);
  CHECK(s.model.moe.expert_loss == 0.01);
  CHECK(s.model.moe.group_max);
  const OptimizerSpec& o = s.training.optimizer;
  CHECK(o.lr == 1e-3);
  CHECK(o.beta1 == 0.9);
  CHECK(o.beta2 == 0.999);
  CHECK(o.eps == 1e-8);
  CHECK(o.weight_decay == 0.01);
  CHECK_FALSE(o.clip.has_value());
  CHECK(o.decay_all);
  for (const char* wrong : {"mapping: megatron", "ep_data: split", "vocab_parallel: true",
                            "zero: 3", "zero: 2, dp: 3"}) {
    CAPTURE(wrong);
    const auto bad = read_scenario_text(
        "t.yaml", fmt::format("tandem: 1\nmodel: nano-train\ntraining: {{global_batch: 48}}\n"
                              "parallel: {{style: nano_train, {}}}\n",
                              wrong));
    REQUIRE_FALSE(bad.ok());
    CHECK(bad.error().diagnostics[0].code == "E-SCEN-057");
  }
}

TEST_CASE("style nano_train: plans verify, read back, and hold what the closed forms say") {
  for (const char* parallel :
       {"tp: 2", "ep: 2", "dp: 2, zero: 1", "dp: 2, zero: 2", "pp: 2, ep: 2", "tp: 2, ep: 2, pp: 2",
        "tp: 2, dp: 2, zero: 1", "tp: 2, ep: 2, dp: 2, zero: 2", "pp: 4, ep: 2", "pp: 5"}) {
    CAPTURE(parallel);
    const Scenario s = scenario(parallel, "micro_batch: 2");
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
      CHECK(executed_flops(plan, ProgramId{pp}) == executed_flops_of_rank(s, pp));
      const auto of = [](const ClassBytes& bytes, BufferClass c) {
        return bytes[static_cast<std::size_t>(c)];
      };
      const auto& held = memory[static_cast<std::size_t>(pp)].persistent;
      const StaticBytes fixed = static_bytes(s, pp, s.parallel.zero);
      CHECK(of(held, BufferClass::param) == fixed.param);
      CHECK(of(held, BufferClass::grad) == fixed.grad);
      CHECK(of(held, BufferClass::optim) == fixed.optim);
    }
  }
}

}  // namespace tandem
