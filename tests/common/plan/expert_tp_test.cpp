// Goal    plans with expert tensor parallelism: what moves over etp, how much room rows have, what
// is
//         kept, how experts are cut; their text reads back, they verify, and wrong row counts do
//         not.
// Method  golden C5 of models.md 7.2 written out (rows known only at run time are balanced in the
//         plan); the closed forms of common/parallel/memory.h; mutants of one op.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <string>

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

Plan plan_of(const std::string& text) { return plan_of(scenario(text)); }

using Calls = std::map<std::string, std::int64_t>;

// "etp.in all_gather 32" -> calls, of tags that begin with `tag`, on pipeline rank 0.
Calls calls_of(const Plan& plan, const std::string& tag) {
  Calls out;
  for (const TagTotal& t : tag_totals(plan, ProgramId{0}))
    if (plan.name(t.tag).starts_with(tag))
      out[fmt::format("{} {} {}", plan.name(t.tag), name_of(t.kind), t.bytes_in)] += t.calls;
  return out;
}

const Buffer& named(const Plan& plan, const std::string& name) {
  for (const Buffer& b : plan.buffers)
    if (plan.name(b.name) == name) return b;
  FAIL("no buffer " << name);
  return plan.buffers[0];
}

const std::string kC5 =
    "model: deepseek-tiny\ntraining: {micro_batch: 1, global_batch: 8}\n"
    "parallel: {tp: 2, dp: 4, ep: 2, etp: 2, sequence_parallel: true}\n";

const std::vector<std::string> kLayouts = {
    kC5, "model: mixtral-tiny\nparallel: {tp: 2, dp: 2, ep: 2, etp: 2}\n",
    "model: mixtral-tiny\nparallel: {tp: 2, pp: 2, etp: 2}\n",
    "model: mixtral-tiny\nparallel: {dp: 4, etp: 4, zero: 2}\n",
    "model: deepseek-tiny\nparallel: {tp: 2, dp: 4, ep: 2, etp: 4, zero: 3}\n"};

}  // namespace

TEST_CASE("C5: deepseek-tiny on tp 2, dp 4, ep 2, etp 2") {
  const Plan plan = plan_of(kC5);
  // Own rows X1 = 16 * 64 * 4 B, all rows X = 8,192; 16 rows of latents of 52 and 48.
  CHECK(calls_of(plan, "attn.in") == Calls{{"attn.in all_gather 3328", 16},
                                           {"attn.in all_gather 3072", 16},
                                           {"attn.in reduce_scatter 6656", 16}});
  CHECK(calls_of(plan, "attn.out") ==
        Calls{{"attn.out reduce_scatter 8192", 16}, {"attn.out all_gather 4096", 16}});
  CHECK(calls_of(plan, "mlp.") == Calls{{"mlp.in all_gather 4096", 4},
                                        {"mlp.in reduce_scatter 8192", 2},
                                        {"mlp.out reduce_scatter 8192", 2},
                                        {"mlp.out all_gather 4096", 2}});
  CHECK(calls_of(plan, "shared.") == Calls{{"shared.in all_gather 4096", 28},
                                           {"shared.in reduce_scatter 8192", 14},
                                           {"shared.out reduce_scatter 8192", 14},
                                           {"shared.out all_gather 4096", 14}});
  CHECK(calls_of(plan, "embed") ==
        Calls{{"embed reduce_scatter 8192", 2}, {"embed all_gather 4096", 2}});
  CHECK(calls_of(plan, "head") ==
        Calls{{"head all_gather 4096", 4}, {"head reduce_scatter 8192", 2}});
  CHECK(calls_of(plan, "ce.") == Calls{{"ce.max all_reduce 128", 2}, {"ce.sum all_reduce 256", 2}});
  CHECK(calls_of(plan, "aux") == Calls{{"aux all_reduce 64", 14}});
  CHECK(calls_of(plan, "cnt") == Calls{{"cnt all_to_all 32", 14}});
  CHECK(calls_of(plan, "disp") == Calls{{"disp all_to_all 8192", 28}});
  CHECK(calls_of(plan, "comb") == Calls{{"comb all_to_all 8192", 28}});
  CHECK(calls_of(plan, "etp.") == Calls{{"etp.in all_gather 32", 14},
                                        {"etp.in all_gather 8192", 14},
                                        {"etp.in reduce_scatter 16384", 14},
                                        {"etp.out reduce_scatter 16384", 14},
                                        {"etp.out all_gather 8192", 14}});
  CHECK(calls_of(plan, "grad.") == Calls{{"grad.stage all_reduce 131072", 1},
                                         {"grad.dp all_reduce 274432", 1},
                                         {"grad.exp all_reduce 344064", 1}});
  CHECK(calls_of(plan, "bias") == Calls{{"bias all_reduce 224", 1}});
  CHECK(calls_of(plan, "norm") == Calls{{"norm all_reduce 8", 1}});
  const auto size_of_comm = [&](const char* name) {
    for (const Communicator& c : plan.communicators)
      if (plan.name(c.name) == name) return c.size;
    return 0;
  };
  CHECK(size_of_comm("etp") == 2);
  CHECK(size_of_comm("ep") == 2);
  CHECK(size_of_comm("edp") == 2);
}

TEST_CASE("rows behind etp: balanced numbers, bounds and counts") {
  // n1 = 16 tokens, K = 2, 4 local experts: 32 balanced rows over ep, at most 2 * 16 * 2 = 64.
  const Plan plan = plan_of(kC5);
  const Buffer &arrived = named(plan, "arrived"), &gathered = named(plan, "gathered");
  CHECK(arrived.shape == Shape{32, 64});
  CHECK(arrived.max_rows == 64);
  CHECK(plan.name(plan.buffer(arrived.rows_of).name) == "moe_counts_in");
  CHECK(gathered.shape == Shape{64, 64});
  CHECK(gathered.max_rows == 128);  // times etp
  CHECK(plan.name(plan.buffer(gathered.rows_of).name) == "moe_counts_all");
  CHECK(plan.buffer(gathered.rows_of).shape == Shape{2, 8});
  CHECK(named(plan, "expert_gate_up").shape == Shape{64, 2 * 16});  // Fe 32 over etp 2
  CHECK(named(plan, "returned").shape == Shape{32, 64});
  // A slice of 16 positions and factor 0.75: ceil(0.75 * 32 / 8) = 3 rows, of 8 experts 24 < 32.
  const std::string job = kC5 + "schedule: 1f1b\n";
  auto capped =
      read_scenario_text("t.yaml", "tandem: 1\n" + job, {"model.moe.capacity_factor=0.75"});
  REQUIRE(capped.ok());
  const auto small = build_plan(*capped);
  REQUIRE(small.ok());
  CHECK(named(*small, "arrived").max_rows == 32);
  CHECK(named(*small, "gathered").max_rows == 64);
}

TEST_CASE("experts are cut by etp inside each expert: gate and up by rows, down by columns") {
  const Plan plan = plan_of(kC5);
  const Buffer &up = named(plan, "layers.1.moe.experts.gate_up.weight"),
               &down = named(plan, "layers.1.moe.experts.down.weight");
  CHECK(up.shape == Shape{4, 32, 64});
  CHECK(up.slice.dim == 0);
  CHECK(up.slice.axis == Axis::etp);
  CHECK(up.slice.experts == 4);
  CHECK(plan.parts_of(up)[1].rows == 16);
  CHECK(down.shape == Shape{4, 64, 16});
  CHECK(down.slice.dim == 1);
  CHECK(down.slice.axis == Axis::etp);
}

TEST_CASE("layers with expert tensor parallelism keep what the closed forms say") {
  for (const std::string& text : kLayouts) {
    CAPTURE(text);
    const Scenario s = scenario(text);
    const Plan plan = plan_of(text);
    const auto of = [](const ClassBytes& bytes, BufferClass c) {
      return bytes[static_cast<std::size_t>(c)];
    };
    const auto memory = sim::track_memory(plan)[0];
    const int visits = s.parallel.pp;  // of 1f1b on rank 0
    const KeptBytes kept = kept_bytes(s, 0, visits);
    CHECK(of(memory.peak.by_class, BufferClass::saved_input) == kept.saved_input);
    CHECK(of(memory.peak.by_class, BufferClass::saved_weight) == kept.saved_weight);
    const StaticBytes fixed = static_bytes(s, 0, s.parallel.zero);
    if (s.parallel.zero < 3) {  // at level 3 buckets are units
      CHECK(of(memory.persistent, BufferClass::param) == fixed.param);
      CHECK(of(memory.persistent, BufferClass::grad) == fixed.grad);
      CHECK(of(memory.persistent, BufferClass::optim) == fixed.optim);
    }
    // Counts and balance sums stay from forward to backward.
    std::map<BufferId, Phase> born;
    Bytes stays = 0;
    for (const Op& op : plan.ops_of(ProgramId{0})) {
      for (BufferId b : plan.allocates_of(op)) born[b] = op.phase;
      for (BufferId b : plan.frees_of(op))
        if (plan.buffer(b).cls == BufferClass::comm && plan.buffer(b).microbatch == 0 &&
            born[b] == Phase::F && op.phase == Phase::B)
          stays += plan.buffer(b).bytes();
    }
    CHECK(stays == kept.comm / visits);
  }
}

TEST_CASE("plans with expert tensor parallelism verify, and their text reads back") {
  for (const std::string& text : kLayouts) {
    CAPTURE(text);
    const Plan plan = plan_of(text);
    const Verification v = verify_plan(plan);
    CHECK_MESSAGE(v.ok(), to_text(v.errors));
    CHECK(v.rendezvous);
    const std::string once = print(plan);
    const auto back = parse_plan(once, "plan.txt");
    REQUIRE_MESSAGE(back.ok(), (back.ok() ? "" : to_text(back.error().diagnostics)));
    check_equal(plan, *back);
    CHECK(print(*back) == once);
  }
}

TEST_CASE("row counts of a gather and a scatter: where they belong, and that they are counts") {
  const Plan good = plan_of(kC5);
  const auto first = [&](OpKind kind, const char* tag) {
    for (std::size_t i = 0; i < good.ops.size(); ++i) {
      const Op& o = good.ops[i];
      if (o.kind == kind && good.name(o.tag) == tag && (o.send_rows.valid() || o.recv_rows.valid()))
        return i;
    }
    FAIL("no such op");
    return std::size_t{0};
  };
  const std::size_t gather = first(OpKind::all_gather, "etp.in"),
                    scatter = first(OpKind::reduce_scatter, "etp.out");
  CHECK(good.ops[gather].recv_rows.valid());
  CHECK_FALSE(good.ops[gather].send_rows.valid());
  CHECK(good.ops[scatter].send_rows.valid());
  CHECK_FALSE(good.ops[scatter].recv_rows.valid());
  const auto refused = [&](std::size_t op, auto&& change) {
    Plan plan = good;
    change(plan.ops[op]);
    const Verification v = verify_plan(plan);
    return v.ok() ? "" : v.errors[0].title;
  };
  const BufferId own = good.ops[gather].source, counts = good.ops[gather].recv_rows;
  for (const auto& title : {refused(gather, [&](Op& o) { o.send_rows = o.recv_rows; }),
                            refused(gather, [&](Op& o) { std::swap(o.send_rows, o.recv_rows); }),
                            refused(scatter, [&](Op& o) { o.recv_rows = o.send_rows; }),
                            refused(scatter, [&](Op& o) { o.source = {}; }),
                            refused(gather, [&](Op& o) { o.kind = OpKind::shift; })}) {
    CAPTURE(title);
    CHECK(title.find("has row counts where none belong") != std::string::npos);
  }
  CHECK(refused(gather, [&](Op& o) { o.recv_rows = own; }).find("has counts that are none") !=
        std::string::npos);
  CHECK(refused(scatter, [&](Op& o) { o.count /= 2; }).find("V1.7") != std::string::npos);
  CHECK(refused(gather, [&](Op& o) { o.recv_rows = counts; }).empty());  // the plan itself

  // In text each kind has its own key only.
  const std::string text = print(good);
  const auto with = [&](const char* op, const char* from, const char* to) {
    std::string t = text;
    std::size_t at = t.find(op);  // the first op of the kind that has rows
    while (t.find(from, at) > t.find('\n', at)) at = t.find(op, at + 1);
    at = t.find(from, at);
    REQUIRE(at != std::string::npos);
    t.replace(at, std::string(from).size(), to);
    const auto p = parse_plan(t, "plan.txt");
    return p.ok() ? std::string() : p.error().diagnostics[0].code;
  };
  CHECK(with("tag=etp.in", " recv_rows=", " send_rows=") == "E-PLAN-012");
  CHECK(with("tag=etp.out", " send_rows=", " recv_rows=") == "E-PLAN-012");
}

}  // namespace tandem
