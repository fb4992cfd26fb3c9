// Goal    a plan of seq1f1b, or of a file's order with slices (models.md 8a, schedules.md 2.14),
// runs
//         each slice of a microbatch by itself, in the order of the file; attention alone sees
//         other slices, through what their visits left; it computes and holds what the closed forms
//         say.
// Method  the attention calls of one layer spelled out; then layouts of all four families against
// the
//         closed forms, verification and the text; plans with one thing spoilt; what is refused.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/model/flops.h"
#include "common/parallel/memory.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "common/plan/totals.h"
#include "common/plan/training.h"
#include "common/plan/verify/verify.h"
#include "common/schedule/registry.h"
#include "common/schedule/text.h"
#include "sim/memory/tracker.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

Plan plan_of(const std::string& text) { return plan_of(scenario(text)); }

std::string job(const std::string& model, const std::string& parallel, int slices,
                const std::string& training = "") {
  return fmt::format(
      "model: {}\ntraining: {{micro_batch: 2, global_batch: 8{}}}\nparallel: {{{}}}\n"
      "schedule: {{kind: seq1f1b, slices: {}}}\n",
      model, training, parallel, slices);
}

// "f0.1(0.0)": the block call of the forward of microbatch 0, slice 1, with the qkv (k: packed kv)
// of slice 0 of microbatch 0. + where it adds to the gradient of that slice's keys and values.
std::string attention_of(const Plan& plan) {
  std::string out;
  for (const Op& op : plan.ops)
    for (const Call& call : plan.calls_of(op)) {
      const Kernel& k = plan.kernel(call.kernel);
      const bool core = k.kind == KernelKind::attention_fwd;
      if (!core && !is_ring(k.kind)) continue;
      const bool back = k.kind == KernelKind::attention_block_bwd_input;
      const std::string who = fmt::format("{}.{}", op.microbatch, op.seq_slice);
      if (core) out += who + " ";
      if (k.kind == KernelKind::kv_pack) out += "pack" + who + " ";
      if (k.kind == KernelKind::kv_unpack) out += "unpack" + who + " ";
      if (!back && k.kind != KernelKind::attention_block_fwd) continue;
      CHECK((k.flags & kSlices) != 0);
      CHECK(k.coords.empty());
      const auto inputs = plan.operands_of(call.inputs), outputs = plan.operands_of(call.outputs);
      const Buffer& block = plan.buffer(inputs[back ? 2 : 1].id);
      CHECK(plan.name(block.name) == ((k.flags & kFused) ? "qkv" : "kv"));
      out +=
          fmt::format("{}{}({}.{}{}){} ", back ? "b" : "f", who, block.microbatch, block.seq_slice,
                      (k.flags & kFused) ? "" : "k", back && outputs[1].accumulate ? "+" : "");
      if (!back) continue;
      const Buffer& d_kv = plan.buffer(outputs[1].id);
      CHECK(d_kv.microbatch == block.microbatch);
      CHECK(d_kv.seq_slice == block.seq_slice);
      CHECK(d_kv.dtype == plan.header.types.main);
      CHECK(outputs[0].accumulate == (block.seq_slice != op.seq_slice));
    }
  return out;
}

}  // namespace

TEST_CASE("the attention of one layer, call by call") {
  const auto of = [](const std::string& training) {
    return attention_of(plan_of(
        fmt::format("model: {{preset: llama-tiny, layers: 1}}\ntraining: {{sequence: 48, "
                    "micro_batch: 1, global_batch: 1{}}}\nschedule: {{kind: seq1f1b, slices: 3}}\n",
                    training)));
  };
  // w = p - r - 2 + k = 2 forwards, then one and one.
  CHECK(of("") ==
        "0.0 0.1 f0.1(0.0) 0.2 f0.2(0.0) f0.2(0.1) "
        "b0.2(0.2) b0.2(0.1) b0.2(0.0) unpack0.2 "
        "b0.1(0.1)+ b0.1(0.0)+ unpack0.1 b0.0(0.0)+ unpack0.0 ");
  // Keys and values stay packed where q, k and v are made again; the last slice needs no packing.
  CHECK(of(", recompute: full") ==
        "pack0.0 0.0 pack0.1 0.1 f0.1(0.0k) 0.2 f0.2(0.0k) f0.2(0.1k) "
        "0.2 f0.2(0.0k) f0.2(0.1k) b0.2(0.2) b0.2(0.1k) b0.2(0.0k) unpack0.2 "
        "0.1 f0.1(0.0k) b0.1(0.1)+ b0.1(0.0k)+ unpack0.1 0.0 b0.0(0.0)+ unpack0.0 ");
}

TEST_CASE("a slice has its own positions, tokens and messages; the divisor is the whole batch's") {
  const Plan plan = plan_of(job("gpt-tiny", "pp: 2", 4));
  CHECK(plan.header.slices == 4);
  CHECK(plan.header.sequence == 32);
  std::map<int, int> first;  // of pos_add_fwd, by slice
  for (const Op& op : plan.ops) {
    if (op.kind == OpKind::copy) {
      CHECK(plan.buffer(op.buffer).shape == Shape{2, 9});  // 8 tokens and a label
      CHECK(plan.buffer(op.buffer).seq_slice == op.seq_slice);
    }
    if (op.kind == OpKind::send) CHECK(op.count == 2 * 8 * 64);
    for (const Call& c : plan.calls_of(op)) {
      const Kernel& k = plan.kernel(c.kernel);
      if (k.kind == KernelKind::pos_add_fwd)
        first[op.seq_slice] = static_cast<int>(first_position_of(k));
      if (k.kind == KernelKind::ce_grad) CHECK(k.dims[2] == 8 * 32);
    }
  }
  CHECK(first == std::map<int, int>{{0, 0}, {1, 8}, {2, 16}, {3, 24}});
  // Messages: of 4 microbatches and 4 slices, forth and back.
  int messages = 0;
  std::map<int, int> matches;
  for (const Op& op : plan.ops)
    if (is_p2p(op.kind)) ++messages, ++matches[op.match];
  CHECK(messages == 2 * 2 * 16);
  for (const auto& [match, ends] : matches) CHECK(ends == 2);
}

// Layouts of all families: what the plan holds and computes is the closed forms'; it verifies; its
// text reads back.
TEST_CASE("slices: closed forms, verification and text of many layouts") {
  std::vector<std::string> list;
  for (const char* model : {"gpt-tiny", "llama-tiny"})
    for (const char* parallel :
         {"pp: 1", "pp: 2", "pp: 4", "tp: 2, pp: 2", "tp: 2, pp: 2, sequence_parallel: true",
          "pp: 2, dp: 2, zero: 1", "pp: 2, dp: 2, zero: 3",
          "tp: 2, pp: 2, vocab_parallel: false, sequence_parallel: true"})
      for (int slices : {2, 4}) {
        list.push_back(job(model, parallel, slices));
        list.push_back(job(model, parallel, slices, ", recompute: full"));
        list.push_back(job(model, parallel, slices, ", precision: bf16"));
      }
  const char* dense = "{preset: deepseek-tiny, moe: {dense_first: 8}}";
  for (const char* parallel : {"pp: 2", "tp: 2, pp: 2", "tp: 2, sequence_parallel: false, pp: 2"})
    list.push_back(job(dense, parallel, 4));
  for (const char* model : {"mixtral-tiny", "deepseek-tiny"})
    for (const char* parallel : {"pp: 2", "pp: 2, dp: 2, ep: 2", "tp: 2, pp: 2, ep: 2"})
      for (const char* training : {"", ", recompute: full"})
        list.push_back(job(model, parallel, 4, training));
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

    const bool experts = s.model.moe.experts > 0 && s.model.moe.dense_first < s.model.layers;
    CHECK(has_transient_form(s) == !experts);
    for (int p = 0; p < s.parallel.pp; ++p) {
      CAPTURE(p);
      const int open = open_visits(s, p).value(), k = plan.header.slices;
      CHECK(open == std::min(s.parallel.pp - 1 - p + k, s.num_microbatches() * k));
      CHECK(v.programs[static_cast<std::size_t>(p)].peak_w == open);
      CHECK(executed_flops(plan, ProgramId{p}) == executed_flops_of_rank(s, p));
      // Every buffer of a visit lives for a part of it only.
      for (const BufferId b : plan.persistent(ProgramId{p}))
        if (Plan::own_bytes(plan.buffer(b)) > 0) CHECK(plan.buffer(b).microbatch < 0);
    }
  }
}

// Receives just before their consumer, so that no message waits (transients_test.cpp).
TEST_CASE("slices: peaks of every class are the closed forms") {
  for (const char* model : {"gpt-tiny", "llama-tiny", "{preset: llama-tiny, layers: 6}",
                            "{preset: deepseek-tiny, moe: {dense_first: 8}}"})
    for (const char* parallel : {"", "tp: 2, ", "tp: 2, sequence_parallel: true, ", "dp: 2, "})
      for (int stages : {1, 2})
        for (int slices : {2, 4})
          for (int microbatches : {1, 3})
            for (const char* precision : {"fp32", "bf16"}) {
              const bool half = std::string(parallel) == "dp: 2, ";
              const Scenario s = scenario(fmt::format(
                  "model: {}\ntraining: {{micro_batch: 2, global_batch: {}, precision: {}}}\n"
                  "parallel: {{{}pp: {}}}\n"
                  "schedule: {{kind: seq1f1b, slices: {}, receive: deferred_parity}}\n",
                  model, 2 * (half ? 2 : 1) * microbatches, precision, parallel, stages, slices));
              CAPTURE(std::string(model));
              CAPTURE(std::string(parallel));
              CAPTURE(stages);
              CAPTURE(slices);
              CAPTURE(microbatches);
              CAPTURE(std::string(precision));
              const Plan plan = plan_of(s);
              const auto memory = sim::track_memory(plan);
              for (int p = 0; p < stages; ++p) {
                CAPTURE(p);
                const auto& peak = memory[static_cast<std::size_t>(p)].peak;
                const auto of = [&peak](BufferClass c) {
                  return peak.by_class[static_cast<std::size_t>(c)];
                };
                const int open = open_visits(s, p).value();
                const KeptBytes kept = kept_bytes(s, p, open);
                const TransientBytes moving = transient_bytes(s, p);
                CHECK(of(BufferClass::saved_input) == kept.saved_input);
                CHECK(of(BufferClass::saved_weight) == kept.saved_weight);
                CHECK(of(BufferClass::logits) == kept.logits);
                CHECK(of(BufferClass::batch) == kept.batch);
                CHECK(of(BufferClass::activation) == moving.activation);
                CHECK(of(BufferClass::grad_activation) == moving.grad_activation);
                CHECK(of(BufferClass::scratch) == moving.scratch);
                CHECK(peak.total <= peak_bound(s, p, open));
              }
            }
}

TEST_CASE("one slice is 1f1b") {
  const auto text_of = [](const std::string& schedule) {
    std::string text =
        print(plan_of("model: llama-tiny\ntraining: {global_batch: 4}\n"
                      "parallel: {pp: 2}\nschedule: " +
                      schedule + "\n"));
    text.erase(0, text.find("receive="));
    return text;
  };
  CHECK(text_of("{kind: seq1f1b, slices: 1}") == text_of("1f1b"));
  CHECK(text_of("seq1f1b") == text_of("1f1b"));
}

// The loss of balance is of whole sequences: slices add up, the last one sums over ranks.
TEST_CASE("experts: the statistics of balance are one buffer of all slices") {
  const Plan plan = plan_of(job("mixtral-tiny", "tp: 2, ep: 2", 4));
  int sums = 0, losses = 0, gradients = 0;
  for (const Op& op : plan.ops) {
    if (op.tag != 0 && plan.name(op.tag) == "aux") {
      ++sums;
      CHECK(op.seq_slice == 3);
      CHECK(plan.buffer(op.buffer).seq_slice == -1);
    }
    for (const Call& c : plan.calls_of(op)) {
      const Kernel& k = plan.kernel(c.kernel);
      const auto outputs = plan.operands_of(c.outputs);
      if (k.kind == KernelKind::route_fwd) {
        CHECK(outputs[3].accumulate == (op.seq_slice > 0));
        CHECK(plan.buffer(outputs[3].id).microbatch == op.microbatch);
        CHECK(k.dims[1] == 32 / 4 / 2);
      }
      if (k.kind == KernelKind::balance_fwd) {
        ++losses;
        CHECK(op.seq_slice == 3);
        CHECK(k.dims[2] == 32);  // tokens of a scope: the whole sequence
      }
      if (k.kind == KernelKind::balance_bwd_input) ++gradients;
    }
  }
  const int layers = 8, microbatches = 4;
  CHECK(sums == layers * microbatches);
  CHECK(losses == layers * microbatches);
  CHECK(gradients == layers * microbatches * 4);
  // Capacity holds in each slice: the reference drops by as many groups.
  const Scenario s =
      scenario(job("{preset: mixtral-tiny, moe: {capacity_factor: 0.75}}", "tp: 2, ep: 2", 4));
  CHECK(training_config(s).moe.drop_groups == 2 * 4);
  for (const Kernel& k : plan_of(s).kernels)
    if (k.kind == KernelKind::route_fwd) {
      CHECK(k.dims[6] == 2);  // ceil(0.75 * (2 * 4 tokens) * 2 choices / 8 experts)
      CHECK(k.dims[7] == 1);
    }
}

namespace {

// A plan of slices with one thing spoilt.
template <class Spoil>
std::string errors_of(Spoil spoil) {
  Plan plan = plan_of(job("llama-tiny", "pp: 2", 2));
  REQUIRE(verify_plan(plan).errors.empty());
  spoil(plan);
  return to_text(verify_plan(plan).errors);
}

}  // namespace

TEST_CASE("verification: a slice that does not exist, is lost, or comes in the wrong order") {
  const auto has = [](const std::string& text, const char* part) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  };
  has(errors_of([](Plan& p) { p.ops[0].seq_slice = 2; }), "V1.2 op 0: is of a slice that does not");
  has(errors_of([](Plan& p) { p.buffers.back().seq_slice = 5; }), "is of a slice that does not");
  has(errors_of([](Plan& p) { p.header.slices = 1; }), "is of a slice that does not");
  has(errors_of([](Plan& p) { p.header.slices = 1'000'000'000; }),
      "V1.2 a plan has a slice or more");
  has(errors_of([](Plan& p) {
        for (Op& op : p.ops)
          if (op.kind == OpKind::compute && op.stage == 1) op.seq_slice = -1;
      }),
      "an op of no slice");
  // All that slice 1 does is said to be slice 0's, and the other way: both orders are wrong.
  const std::string swapped = errors_of([](Plan& p) {
    for (Op& op : p.ops)
      if (op.seq_slice >= 0) op.seq_slice = 1 - op.seq_slice;
  });
  has(swapped, "V2.7 rank 0 stage 0 mb 0 slice 1: forward before that of the slice before");
  has(swapped, "V2.7 rank 0 stage 0 mb 0 slice 1: backward behind that of the slice before");
  // An attention that leaves out an earlier slice is another forward than microbatch 0's.
  has(errors_of([](Plan& p) {
        for (Op& op : p.ops)
          if (op.microbatch == 1 && op.seq_slice == 1 && op.phase == Phase::F &&
              op.calls.count > 1) {
            --op.calls.count;
            return;
          }
      }),
      "V2.1");
}

TEST_CASE("a file's order with slices: the kind's own text is the kind's plan") {
  namespace fs = std::filesystem;
  const fs::path folder =
      fs::temp_directory_path() / ("tandem_slices_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const auto of = [&](const std::string& schedule, const std::string& more = "") {
    return read_scenario_text((folder / "s.yaml").string(),
                              "tandem: 1\nmodel: llama-tiny\ntraining: {global_batch: 4" + more +
                                  "}\nparallel: {pp: 2}\nschedule: " + schedule + "\n");
  };
  const auto made = of("{kind: seq1f1b, slices: 4}");
  REQUIRE(made.ok());
  const Result<Order> order = build_order(*made);
  REQUIRE(order.ok());
  const std::string file = "{kind: file, file: o.csv}";
  REQUIRE(write_file_atomic((folder / "o.csv").string(), to_file(*order)).ok());
  const auto given = of(file);
  REQUIRE_MESSAGE(given.ok(), (given.ok() ? "" : to_text(given.error().diagnostics)));
  CHECK(num_slices(given->schedule.kind, given->schedule.options) == 4);
  const auto body = [](const Plan& plan) {
    const std::string text = print(plan);
    return text.substr(text.find("receive="));
  };
  CHECK(body(plan_of(*given)) == body(plan_of(*made)));
  // A split backward, which the kind has not: I in its order, W last.
  Order split = *order;
  for (RankOrder& list : split.ranks) {
    RankOrder out, weights;
    for (Action a : list) {
      if (a.kind == ActionKind::B) {
        a.kind = ActionKind::W;
        weights.push_back(a);
        a.kind = ActionKind::I;
      }
      out.push_back(a);
    }
    out.insert(out.end(), weights.begin(), weights.end());
    list = out;
  }
  REQUIRE(write_file_atomic((folder / "o.csv").string(), to_file(split)).ok());
  const auto apart = of(file);
  REQUIRE(apart.ok());
  const Verification v = verify_plan(plan_of(*apart));
  CHECK_MESSAGE(v.errors.empty(), to_text(v.errors));
  // What does not divide is refused with its arithmetic, whoever names the slices.
  for (const std::string& schedule : {std::string("{kind: seq1f1b, slices: 4}"), file}) {
    const auto refused = of(schedule, ", sequence: 30");
    REQUIRE(!refused.ok());
    const std::string text = to_text(refused.error().diagnostics);
    CHECK_MESSAGE(text.find("E-SCEN-041") != std::string::npos, text);
    CHECK_MESSAGE(text.find("30 / 4 = 7.5 positions for each slice") != std::string::npos, text);
  }
  fs::remove_all(folder);
}

TEST_CASE("what slices cannot go with is refused by name") {
  const auto errors = [](const std::string& text) {
    const auto s = read_scenario_text("t.yaml", "tandem: 1\n" + text);
    REQUIRE(!s.ok());
    return to_text(s.error().diagnostics);
  };
  const auto has = [](const std::string& text, const char* part) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  };
  const std::string cp = errors(job("llama-tiny", "cp: 2", 2));
  has(cp, "E-SCEN-065");
  has(cp, "parallel.cp = 2 is not possible with slices of sequences");
  has(errors(job("llama-tiny", "pp: 2", 2, ", attention: materialised")),
      "training.attention = materialised is not possible with slices");
  has(errors(job("deepseek-tiny", "pp: 2, style: nano_train", 2)),
      "parallel.style = nano_train is not possible with slices");
  // (S/k) is cut over tp with sequence parallelism.
  has(errors(job("llama-tiny", "tp: 4, sequence_parallel: true", 16)),
      "training.sequence = 32 cannot be cut into 64 equal parts");
  has(errors(job("{preset: mixtral-tiny, moe: {drop_groups: 8}}", "pp: 2", 8)), "E-MODEL-009");
  CHECK(read_scenario_text("t.yaml", "tandem: 1\n" + job("llama-tiny", "tp: 2", 32)).ok());
}

TEST_CASE("without slices nothing of them is in a plan") {
  for (const char* model : {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny"}) {
    const Plan plan = plan_of(fmt::format("model: {}\n", model));
    CHECK(plan.header.slices == 1);
    for (const Op& op : plan.ops) CHECK(op.seq_slice == -1);
    for (const Buffer& b : plan.buffers) CHECK(b.seq_slice == -1);
    for (const Kernel& k : plan.kernels) CHECK(first_position_of(k) == 0);
    const std::string text = print(plan), header = text.substr(0, text.find('\n'));
    CHECK(header.find("slices=") == std::string::npos);
    CHECK(text.find(".s0") == std::string::npos);
  }
}

}  // namespace tandem
