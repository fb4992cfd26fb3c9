// Goal    a plan with context parallelism (models.md 4.7) moves, computes and holds what the tables
//         say: the ring of every attention in its order, S/c positions on a rank, the whole
//         sequence where it is meant, gradients over dp_cp, everything counted once.
// Method  rows of models.md 4.1 and 4.7 by hand for P37 and P38; the ops of one layer spelled out;
//         then layouts of all four families against the closed forms, verification and the text.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <set>
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
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

Plan plan_of(const std::string& text) { return plan_of(scenario(text)); }

// "cp.kv shift cp 4096" -> calls, of one rank.
using Calls = std::map<std::string, std::int64_t>;
Calls calls_of(const Plan& plan, int program = 0) {
  Calls out;
  for (const TagTotal& t : tag_totals(plan, ProgramId{program}))
    out[fmt::format("{} {} {} {}", plan.name(t.tag), name_of(t.kind),
                    plan.name(plan.communicators[t.comm.index()].name), t.bytes_in)] += t.calls;
  return out;
}
Calls only(const Calls& got, const std::string& first_letters) {
  Calls out;
  for (const auto& [key, n] : got)
    if (key.starts_with(first_letters)) out[key] = n;
  return out;
}

const Kernel* find(const Plan& plan, KernelKind kind) {
  for (const Kernel& k : plan.kernels)
    if (k.kind == kind) return &k;
  return nullptr;
}

const std::string kJob = "training: {micro_batch: 2, global_batch: 8}\n";

}  // namespace

// n = b S/c = 32 tokens on a rank, X = 32 * 64 * 4 = 8,192 B; m = 2.
TEST_CASE("P37: llama-tiny on cp 2, tp 2, dp 2, by tag") {
  const std::string job = "model: llama-tiny\n" + kJob + "parallel: {cp: 2, tp: 2, dp: 2";
  const Calls plain = calls_of(plan_of(job + "}\n"));
  // A block is n (ak/t) 2dh w = 32 * 1 * 32 * 4; 16 attentions: F 1 step, I 1 step and 2 of dk, dv.
  CHECK(only(plain, "cp.kv") == Calls{{"cp.kv shift cp 4096", 16 * (1 + 1 + 2)}});
  std::int64_t reduced = 0;
  for (const auto& [key, n] : plain)
    if (key.ends_with("all_reduce tp 8192")) reduced += n;
  CHECK(reduced == 68);
  CHECK(only(plain, "ce.") ==
        Calls{{"ce.max all_reduce tp 128", 2}, {"ce.sum all_reduce tp 256", 2}});
  // 164,928 elements, padded to 64 * 4 members of (dp, cp): 165,120.
  CHECK(only(plain, "grad.") == Calls{{"grad.dp all_reduce dp_cp 660480", 1}});
  CHECK(only(plain, "norm") == Calls{{"norm all_reduce world 8", 1}});

  const Calls sp = calls_of(plan_of(job + ", sequence_parallel: true}\n"));
  CHECK(only(sp, "cp.kv") == only(plain, "cp.kv"));
  std::int64_t gathers = 0, scatters = 0;
  for (const auto& [key, n] : sp) {
    if (key.ends_with("all_gather tp 4096")) gathers += n;
    if (key.ends_with("reduce_scatter tp 8192")) scatters += n;
  }
  CHECK(gathers == 34 + 34 + 34);
  CHECK(scatters == 68);
  // Norms saw other positions on each of the 8 ranks of the stage: 1,088 padded to 64 * 8.
  CHECK(only(sp, "grad.") ==
        Calls{{"grad.dp all_reduce dp_cp 655360", 1}, {"grad.stage all_reduce stage 6144", 1}});

  // In bf16 k and v have 2 bytes, their gradients 4.
  const Calls half = calls_of(
      plan_of("model: llama-tiny\ntraining: {micro_batch: 2, global_batch: 8, precision: bf16}\n"
              "parallel: {cp: 2, tp: 2, dp: 2}\ncluster: dgx-h100\n"));
  CHECK(only(half, "cp.kv") ==
        Calls{{"cp.kv shift cp 2048", 16 * 2}, {"cp.kv shift cp 4096", 16 * 2}});
}

// MLA: a block is n a (dn + dr + dv) w = 32 * 4 * 20 * 4 = 10,240 B, after kv_b and rope.
TEST_CASE("P38: deepseek-tiny on cp 2, dp 2, ep 2, by tag") {
  const Plan plan = plan_of("model: deepseek-tiny\n" + kJob + "parallel: {cp: 2, dp: 2, ep: 2}\n");
  const Calls c = calls_of(plan);
  CHECK(only(c, "cp.kv") == Calls{{"cp.kv shift cp 10240", 16 * (1 + 1 + 2)}});
  CHECK(only(c, "aux") == Calls{{"aux all_reduce tp_cp 128", 14}});  // 2 b E, 7 layers
  CHECK(only(c, "cnt") == Calls{{"cnt all_to_all ep 32", 14}});
  CHECK(only(c, "disp") == Calls{{"disp all_to_all ep 16384", 28}});  // 32 tokens * 2 rows * H
  CHECK(only(c, "comb") == Calls{{"comb all_to_all ep 16384", 28}});
  CHECK(only(c, "bias") == Calls{{"bias all_reduce stage 224", 1}});
  CHECK(only(c, "grad.") ==
        Calls{{"grad.dp all_reduce dp_cp 678912", 1}, {"grad.exp all_reduce edp 688128", 1}});
  // The statistics of a scope are those of the whole sequence, the rows those of the rank.
  CHECK(find(plan, KernelKind::balance_fwd)->dims[2] == 32);
  CHECK(find(plan, KernelKind::balance_bwd_input)->dims[6] == 32);  // 2 sequences, 16 positions
  CHECK(find(plan, KernelKind::route_fwd)->dims[1] == 16);
}

TEST_CASE("the whole sequence stays where it is meant") {
  const Plan plan = plan_of("model: llama-tiny\n" + kJob + "parallel: {cp: 4}\n");
  CHECK(plan.header.sequence == 32);
  CHECK(find(plan, KernelKind::ce_grad)->dims[2] == 8 * 32);  // global_batch * S
  CHECK(find(plan, KernelKind::ce_grad)->dims[0] == 2 * 8);
  for (const Buffer& b : plan.buffers)
    if (b.cls == BufferClass::batch) CHECK(b.shape == Shape{2, 33});
  // Rows are positions of the cp coordinate; owners and counts (models.md 4.9).
  for (const KernelKind kind :
       {KernelKind::embed_fwd, KernelKind::embed_bwd_weight, KernelKind::rope_fwd,
        KernelKind::rope_bwd_input, KernelKind::ce_sum, KernelKind::ce_grad}) {
    const Kernel* k = find(plan, kind);
    REQUIRE(k);
    CHECK_MESSAGE((k->flags & kPositions) != 0, to_text(*k));
    CHECK_MESSAGE(k->coords == AxisSet{}.add(Axis::cp), to_text(*k));
  }
  for (const Kernel& k : plan.kernels) {
    if (k.kind == KernelKind::sum_squares) CHECK(k.owner.has(Axis::cp));
    if (k.kind == KernelKind::metrics_pack && (k.flags & kHasLoss)) {
      CHECK_FALSE(k.owner.has(Axis::cp));
      CHECK(k.coords.has(Axis::cp));
    }
  }
  // With tp the vocabulary is cut by tp and the positions by cp.
  const Plan both = plan_of("model: gpt-tiny\n" + kJob + "parallel: {cp: 2, tp: 2}\n");
  CHECK(to_text(*find(both, KernelKind::embed_fwd)) ==
        "embed_fwd tokens=32 rows=128 width=64 positions vocab coords=tp,cp");
  CHECK(to_text(*find(both, KernelKind::pos_add_fwd)) ==
        "pos_add_fwd seq=16 batch=2 width=64 positions coords=cp");
}

// What follows what in one attention: shifts run beside the block before them, gradients behind
// theirs. "a+b" is a segment; only what belongs to the ring is listed.
TEST_CASE("the ring of one attention, op by op") {
  const auto ring_of = [](int c, Phase phase) {
    const Plan plan = plan_of(fmt::format(
        "model: {{preset: llama-tiny, layers: 1}}\ntraining: {{sequence: 48, micro_batch: 1, "
        "global_batch: 1}}\nparallel: {{cp: {}}}\n",
        c));
    std::string out;
    for (const Op& op : plan.ops) {
      if (op.phase != phase) continue;
      std::string word;
      if (op.kind == OpKind::shift) {
        CHECK(plan.name(op.tag) == "cp.kv");
        CHECK(plan.streams[op.stream.index()] == "comm:cp");
        word =
            plan.name(plan.buffer(op.source).name) + ">" + plan.name(plan.buffer(op.buffer).name);
      }
      for (const Call& call : plan.calls_of(op)) {
        const Kernel& k = plan.kernel(call.kernel);
        const bool core = k.kind == KernelKind::attention_fwd;
        if (!core && !is_ring(k.kind)) continue;
        if (!word.empty()) word += "+";
        word += core ? "own" : std::string(catalogue(k.kind).name);
        if (k.kind == KernelKind::attention_block_fwd ||
            k.kind == KernelKind::attention_block_bwd_input) {
          word = (k.kind == KernelKind::attention_block_fwd ? "f" : "b") +
                 std::to_string(k.dims[kRingStep]);
          const bool adds = plan.operands_of(call.outputs)[1].accumulate;
          CHECK(adds == (k.kind == KernelKind::attention_block_bwd_input && k.dims[kRingStep] > 0));
        }
      }
      if (!word.empty()) out += word + " ";
    }
    return out;
  };
  CHECK(ring_of(2, Phase::F) == "kv_pack kv_even>kv_odd own f1 ");
  CHECK(ring_of(3, Phase::F) == "kv_pack kv_even>kv_odd own kv_odd>kv_even f1 f2 ");
  CHECK(ring_of(2, Phase::B) ==
        "kv_pack kv_even>kv_odd b0 d_kv_even>d_kv_odd b1 d_kv_odd>d_kv_even kv_unpack ");
  CHECK(ring_of(3, Phase::B) ==
        "kv_pack kv_even>kv_odd b0 d_kv_even>d_kv_odd kv_odd>kv_even b1 d_kv_odd>d_kv_even "
        "b2 d_kv_even>d_kv_odd kv_unpack ");
}

// Neither waits for the other, and no free of the one holds back what the other allocates.
TEST_CASE("a shift of k and v runs beside a block, forward and backward") {
  for (const int c : {2, 3, 4}) {
    CAPTURE(c);
    const Plan plan = plan_of(fmt::format(
        "model: {{preset: llama-tiny, layers: 2}}\ntraining: {{sequence: 48, micro_batch: 1, "
        "global_batch: 2}}\nparallel: {{cp: {}, tp: 2}}\n",
        c));
    int beside = 0;
    for (std::size_t i = 0; i + 1 < plan.ops.size(); ++i) {
      const Op &shift = plan.ops[i], &block = plan.ops[i + 1];
      if (shift.kind != OpKind::shift) continue;
      if (plan.name(plan.buffer(shift.buffer).name).starts_with("d_kv")) continue;
      CAPTURE(i);
      ++beside;
      REQUIRE(block.kind == OpKind::compute);
      CHECK(shift.frees.count == 0);
      for (const OpId w : plan.waits_of(block)) CHECK(w.index() < i);
      // The shift waits for nothing later than what made or last used its blocks.
      for (const OpId w : plan.waits_of(shift)) CHECK(w.index() < i);
    }
    CHECK(beside == 2 * 2 * 2 * (c - 1));  // layers, microbatches, directions
  }
}

// Layouts of all families: what the plan holds and computes is the closed forms'; it verifies; its
// text reads back.
TEST_CASE("context parallelism: closed forms, verification and text of many layouts") {
  const std::string train = "training: {micro_batch: 2, global_batch: 16}\n";
  const auto dense = [&](const std::string& parallel, const std::string& training = "") {
    std::vector<std::string> out;
    for (const char* model : {"gpt-tiny", "llama-tiny"})
      out.push_back(fmt::format("model: {}\n{}parallel: {{{}}}\n", model,
                                training.empty() ? train : training, parallel));
    return out;
  };
  std::vector<std::string> list;
  for (const char* parallel :
       {"cp: 2", "cp: 4", "cp: 2, tp: 2", "cp: 2, tp: 2, sequence_parallel: true",
        "cp: 4, tp: 2, dp: 2, sequence_parallel: true", "cp: 2, pp: 2", "cp: 2, pp: 4, dp: 2",
        "cp: 2, tp: 2, pp: 2, sequence_parallel: true",
        "cp: 2, tp: 2, vocab_parallel: false, sequence_parallel: true",
        "cp: 2, tp: 2, vocab_parallel: false"})
    for (const std::string& text : dense(parallel)) list.push_back(text);
  for (const std::string& text :
       dense("cp: 4, tp: 2", "training: {micro_batch: 1, global_batch: 4, precision: bf16}\n"))
    list.push_back(text + "cluster: dgx-h100\n");
  for (const char* model : {"mixtral-tiny", "deepseek-tiny"})
    for (const char* parallel : {"cp: 2", "cp: 2, ep: 2", "cp: 2, dp: 2, ep: 4",
                                 "cp: 2, tp: 2, ep: 2", "cp: 4, pp: 2, ep: 2"})
      list.push_back(fmt::format("model: {}\n{}parallel: {{{}}}\n", model, train, parallel));
  for (const std::string& text : list) {
    CAPTURE(text);
    const Scenario s = scenario(text);
    const Plan plan = plan_of(s);
    const Verification v = verify_plan(plan);
    REQUIRE_MESSAGE(v.errors.empty(), to_text(v.errors));
    CHECK(v.deadlock_free);
    const std::string once = print(plan);
    const auto back = parse_plan(once, "plan.txt");
    REQUIRE_MESSAGE(back.ok(), (back.ok() ? "" : to_text(back.error().diagnostics)));
    CHECK(print(*back) == once);

    const auto memory = sim::track_memory(plan);
    const bool experts = s.model.moe.experts > 0;
    for (int p = 0; p < s.parallel.pp; ++p) {
      CAPTURE(p);
      CHECK(executed_flops(plan, ProgramId{p}) == executed_flops_of_rank(s, p));
      const auto& peak = memory[static_cast<std::size_t>(p)].peak;
      const auto of = [&peak](BufferClass c) { return peak.by_class[static_cast<std::size_t>(c)]; };
      const int open = open_visits(s, p).value();
      const KeptBytes kept = kept_bytes(s, p, open);
      const StaticBytes fixed = static_bytes(s, p);
      const TransientBytes moving = transient_bytes(s, p);
      CHECK(of(BufferClass::param) == fixed.param);
      CHECK(of(BufferClass::grad) == fixed.grad);
      CHECK(of(BufferClass::optim) == fixed.optim);
      if (s.parallel.pp == 1 || p > 0) {
        CHECK(of(BufferClass::saved_weight) == kept.saved_weight);
        CHECK(of(BufferClass::logits) == kept.logits);
        CHECK(of(BufferClass::batch) == kept.batch);
      }
      if (s.parallel.pp == 1) CHECK(of(BufferClass::saved_input) == kept.saved_input);
      if (experts) continue;
      CHECK(of(BufferClass::comm) == moving.comm);
      if (s.parallel.pp > 1 || !s.parallel.vocab_parallel) continue;
      CHECK(of(BufferClass::scratch) == moving.scratch);
      CHECK(of(BufferClass::activation) == moving.activation);
      CHECK(of(BufferClass::grad_activation) == moving.grad_activation);
    }
  }
}

// A ring's two blocks and their gradients, n kv elements each: 2 * 8 tokens of 32.
TEST_CASE("a ring holds two blocks of each kind") {
  const Scenario s = scenario("model: llama-tiny\n" + kJob + "parallel: {cp: 4, tp: 2}\n");
  CHECK(transient_bytes(s, 0).comm == 2 * (2 * 8) * 32 * (4 + 4));
  const Scenario two = scenario("model: llama-tiny\n" + kJob + "parallel: {cp: 2, tp: 2}\n");
  CHECK(transient_bytes(two, 0).comm == 2 * (2 * 16) * 32 * (4 + 4));
  const Scenario half = scenario(
      "model: llama-tiny\ntraining: {micro_batch: 2, global_batch: 8, precision: bf16}\n"
      "parallel: {cp: 4, tp: 2}\ncluster: dgx-h100\n");
  CHECK(transient_bytes(half, 0).comm == 2 * (2 * 8) * 32 * (2 + 4));
}

// Rows outside the sequence would be read: the verifier holds a kernel's slices to its batch.
TEST_CASE("verification finds rows that are not those of the rank's positions") {
  const Plan good = plan_of("model: gpt-tiny\n" + kJob + "parallel: {cp: 2, tp: 2}\n");
  REQUIRE(verify_plan(good).errors.empty());
  const auto errors_with = [&](KernelKind kind, AxisSet coords, std::uint32_t flags) {
    Plan plan = good;
    for (Kernel& k : plan.kernels)
      if (k.kind == kind) k.coords = coords, k.flags = flags;
    return to_text(verify_plan(plan).errors);
  };
  const AxisSet tp = AxisSet{}.add(Axis::tp), both = AxisSet{}.add(Axis::tp).add(Axis::cp);
  CHECK(errors_with(KernelKind::embed_fwd, both, kPositions | kVocab) == "");
  for (const KernelKind kind :
       {KernelKind::embed_fwd, KernelKind::embed_bwd_weight, KernelKind::ce_sum}) {
    for (const std::string& text : {errors_with(kind, tp, kPositions | kVocab),
                                    errors_with(kind, both, kPositions), errors_with(kind, tp, 0)})
      CHECK_MESSAGE(text.find("has a batch of a wrong size") != std::string::npos, text);
  }
  // The table of positions has 32 rows: slices of 16 for two ranks, not for four.
  CHECK_MESSAGE(errors_with(KernelKind::pos_add_fwd, both, kPositions)
                        .find("has an operand of a wrong size") != std::string::npos,
                "positions beyond the table");
}

TEST_CASE("without context parallelism nothing of it is in a plan") {
  for (const char* model : {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny"}) {
    const Plan plan = plan_of(fmt::format("model: {}\n{}", model, kJob));
    for (const Kernel& k : plan.kernels) {
      CHECK_FALSE(is_ring(k.kind));
      CHECK_FALSE(k.coords.has(Axis::cp));
    }
    for (const Op& op : plan.ops) CHECK(op.kind != OpKind::shift);
    CHECK(print(plan).find(",cp:") == std::string::npos);
  }
}

}  // namespace tandem
