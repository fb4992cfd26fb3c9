// Goal    a plan moves, computes and holds exactly what the closed forms say.
// Method  the worked examples of models.md 4 and 7.2 written out; then random small models on
// random
//         meshes: calls and bytes of every tag, FLOPs, and the peak of every buffer class, each
//         against common/model and the formulas of models.md 4.1.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "common/base/rng.h"
#include "common/model/flops.h"
#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "common/plan/totals.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"
#include "sim/memory/tracker.h"

namespace tandem {
namespace {

Scenario scenario(const std::string& text) {
  auto s = read_scenario_text("test.yaml", "tandem: 1\n" + text);
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : s.error().diagnostics[0].title));
  return *s;
}

Plan plan_of(const Scenario& s) {
  auto p = build_plan(s);
  REQUIRE_MESSAGE(p.ok(), (p.ok() ? "" : p.error().diagnostics[0].title));
  return std::move(p).value();
}

// (tag, call, bytes in) -> calls, of one rank of a program.
using Traffic = std::map<std::tuple<std::string, std::string, Bytes>, std::int64_t>;

Traffic traffic(const Plan& plan, int program) {
  Traffic out;
  for (const TagTotal& t : tag_totals(plan, ProgramId{program}))
    out[{plan.name(t.tag), std::string(name_of(t.kind)), t.bytes_in}] += t.calls;
  return out;
}

// models.md 4.1 without sequence parallelism, for gpt and llama.
Traffic expected_traffic(const Scenario& s, int program) {
  Traffic out;
  const auto add = [&out](const char* tag, const char* call, Bytes bytes, std::int64_t calls) {
    if (calls > 0) out[{tag, call, bytes}] += calls;
  };
  const ParallelSpec& p = s.parallel;
  const PlanTypes types = plan_types(s);
  const std::int64_t m = s.num_microbatches();
  const Bytes n = Bytes{s.training.micro_batch} * s.training.sequence;
  const Bytes x = n * s.model.hidden * size_of(types.compute);
  const Bytes stat = size_of(types.statistic()), main = size_of(types.main);
  const bool first = program == 0, last = program == p.pp - 1;
  const std::int64_t layers = p.layer_split[static_cast<std::size_t>(program)];
  if (p.tp > 1) {
    for (const char* tag : {"attn.in", "attn.out", "mlp.in", "mlp.out"})
      add(tag, "all_reduce", x, m * layers);
    if (first) add("embed", "all_reduce", x, m);
    if (last) {
      add("head", "all_reduce", x, m);
      add("ce.max", "all_reduce", n * stat, m);
      add("ce.sum", "all_reduce", 2 * n * stat, m);
    }
  }
  add("act", "send", x, last ? 0 : m);
  add("act", "recv", x, first ? 0 : m);
  add("grad", "send", x, first ? 0 : m);
  add("grad", "recv", x, last ? 0 : m);
  for (const BucketSize& b : bucket_sizes(s, program)) {
    if (b.tied && p.pp > 1) add("grad.emb", "all_reduce", b.elements * main, 1);
    if (p.dp > 1) add("grad.dp", "all_reduce", b.elements * main, 1);
  }
  if (p.world() > 1) {
    add("norm", "all_reduce", 8, 1);
    add("metrics", "all_reduce", 64, 1);
  }
  return out;
}

std::string text(const Traffic& t) {
  std::string out;
  for (const auto& [key, calls] : t)
    out +=
        fmt::format("{} {} {} x {}\n", std::get<0>(key), std::get<1>(key), std::get<2>(key), calls);
  return out;
}

double ring_total(const Plan& plan, int program, const std::string& group) {
  double sum = 0;
  for (const TagTotal& t : tag_totals(plan, ProgramId{program}))
    if (plan.name(plan.communicators[t.comm.index()].name) == group) sum += t.total_ring();
  return sum;
}

// Random small scenarios, the same on every machine.
class Random {
 public:
  explicit Random(std::uint32_t index) : words_(philox4x32({index, 0, 0, 0}, {2104, 4473})) {}
  template <class T>
  T pick(std::initializer_list<T> list) {
    const std::uint32_t w = words_[next_ % 4] >> (8 * (next_ / 4 % 4));
    ++next_;
    return *(list.begin() + (w & 0xff) % list.size());
  }

 private:
  PhiloxWords words_;
  std::uint32_t next_ = 0;
};

std::string random_text(std::uint32_t index, const std::string& receive) {
  Random r(index);
  const int t = r.pick({1, 2, 4}), p = r.pick({1, 2, 3, 4}), d = r.pick({1, 2, 3});
  const int m = r.pick({1, 2, 3, 5, 8}), b = r.pick({1, 2}), layers = p + r.pick({0, 1, 3});
  return fmt::format(
      "model: {{family: gpt, layers: {}, hidden: {}, heads: 4, ffn_hidden: {}, vocab: {},"
      " max_sequence: {}, tied_embeddings: {}}}\n"
      "training: {{sequence: 16, micro_batch: {}, global_batch: {}, precision: {}, attention: "
      "{}}}\n"
      "parallel: {{tp: {}, pp: {}, dp: {}, gradient_reduce: {{bucket: {} KiB}}}}\n"
      "schedule: {{kind: {}, receive: {}}}\n",
      layers, r.pick({32, 64}), r.pick({64, 128, 320}), r.pick({251, 256}), r.pick({16, 24}),
      r.pick({"true", "false"}), b, b * m * d, r.pick({"fp32", "fp64", "bf16"}),
      r.pick({"flash", "materialised"}), t, p, d, r.pick({8, 64, 4096}), r.pick({"gpipe", "1f1b"}),
      receive);
}
constexpr std::uint32_t kRandom = 300;

// The same laws hold for both families: cases below kRandom are gpt, those above it llama.
std::string random_llama(std::uint32_t index, const std::string& receive) {
  Random r(index);
  const int t = r.pick({1, 2, 4}), p = r.pick({1, 2, 3, 4}), d = r.pick({1, 2, 3});
  const int m = r.pick({1, 2, 3, 5, 8}), b = r.pick({1, 2}), layers = p + r.pick({0, 1, 3});
  const int kv = std::max(t, r.pick({1, 2, 4}));
  return fmt::format(
      "model: {{family: llama, layers: {}, hidden: {}, heads: 4, kv_heads: {}, ffn_hidden: {},"
      " vocab: {}, max_sequence: 24, tied_embeddings: {}}}\n"
      "training: {{sequence: 16, micro_batch: {}, global_batch: {}, precision: {}, attention: "
      "{}}}\n"
      "parallel: {{tp: {}, pp: {}, dp: {}, gradient_reduce: {{bucket: {} KiB}}}}\n"
      "schedule: {{kind: {}, receive: {}}}\n",
      layers, r.pick({32, 64}), kv, r.pick({32, 64, 192}), r.pick({251, 256}),
      r.pick({"true", "false"}), b, b * m * d, r.pick({"fp32", "fp64", "bf16"}),
      r.pick({"flash", "materialised"}), t, p, d, r.pick({8, 64, 4096}), r.pick({"gpipe", "1f1b"}),
      receive);
}
std::string random_case(std::uint32_t index, const std::string& receive) {
  return index < kRandom ? random_text(index, receive) : random_llama(index, receive);
}
constexpr std::uint32_t kCases = 2 * kRandom;

}  // namespace

// models.md 7.2, C3: gpt-tiny W4 t2 p2, no SP, b 2, m 4. X = 64 tokens * 64 * 4 B = 16,384 B.
TEST_CASE("goldens C3: communication of gpt-tiny on two tensor ranks and two stages") {
  const Plan plan = plan_of(scenario(
      "model: gpt-tiny\nparallel: {tp: 2, pp: 2}\ntraining: {micro_batch: 2, global_batch: 8}\n"));
  const Traffic stage0 = {{{"embed", "all_reduce", 16'384}, 4},
                          {{"attn.in", "all_reduce", 16'384}, 16},
                          {{"attn.out", "all_reduce", 16'384}, 16},
                          {{"mlp.in", "all_reduce", 16'384}, 16},
                          {{"mlp.out", "all_reduce", 16'384}, 16},
                          {{"act", "send", 16'384}, 4},
                          {{"grad", "recv", 16'384}, 4},
                          {{"grad.emb", "all_reduce", 32'768}, 1},
                          {{"norm", "all_reduce", 8}, 1},
                          {{"metrics", "all_reduce", 64}, 1}};
  const Traffic stage1 = {{{"head", "all_reduce", 16'384}, 4},
                          {{"attn.in", "all_reduce", 16'384}, 16},
                          {{"attn.out", "all_reduce", 16'384}, 16},
                          {{"mlp.in", "all_reduce", 16'384}, 16},
                          {{"mlp.out", "all_reduce", 16'384}, 16},
                          {{"ce.max", "all_reduce", 256}, 4},
                          {{"ce.sum", "all_reduce", 512}, 4},
                          {{"act", "recv", 16'384}, 4},
                          {{"grad", "send", 16'384}, 4},
                          {{"grad.emb", "all_reduce", 32'768}, 1},
                          {{"norm", "all_reduce", 8}, 1},
                          {{"metrics", "all_reduce", 64}, 1}};
  CHECK(text(traffic(plan, 0)) == text(stage0));
  CHECK(text(traffic(plan, 1)) == text(stage1));
  // g = 2: a rank sends 2 (g-1)/g = 1 times the bytes of an all-reduce.
  CHECK(ring_total(plan, 0, "tp") == 68 * 16'384);
  CHECK(ring_total(plan, 1, "tp") == 68 * 16'384 + 4 * 768);
}

// models.md 4.2: m (2 + 4L) = 68 all-reduces of X on t 2, d 2, m 2: 1,114,112 B in and by ring.
TEST_CASE("goldens: tensor parallelism of one stage, and the gradient buckets") {
  const Scenario s = scenario(
      "model: gpt-tiny\nparallel: {tp: 2, dp: 2}\ntraining: {micro_batch: 2, global_batch: 8}\n");
  const Plan plan = plan_of(s);
  const Traffic t = traffic(plan, 0);
  std::int64_t calls = 0, bytes = 0;
  for (const auto& [key, count] : t)
    if (std::get<2>(key) == 16'384 && std::get<0>(key) != "grad.dp")
      calls += count, bytes += count * 16'384;
  CHECK(calls == 68);
  CHECK(bytes == 1'114'112);
  CHECK(t.at({"ce.max", "all_reduce", 256}) == 2);
  CHECK(t.at({"ce.sum", "all_reduce", 512}) == 2);
  CHECK(ring_total(plan, 0, "tp") == 1'114'112 + 2 * 256 + 2 * 512);
  // 8 layers of 25,216 elements (memory_test.cpp), positions 2,048, final norm 128: 203,904 = 1,593
  // * 128.
  CHECK(t.at({"grad.dp", "all_reduce", 4 * 203'904}) == 1);
  CHECK(t.at({"grad.dp", "all_reduce", 4 * 128 * 64}) == 1);  // the tied embedding's own
  CHECK(ring_total(plan, 0, "dp") == 4 * (203'904 + 128 * 64));
}

// models.md 7.2, C1: llama-tiny W4 t2 d2, no SP, b 2, m 2: one reduction of X for each input and
// output of attention and MLP, though q, k and v (gate and up) are several tensors; one bucket.
TEST_CASE("goldens C1: communication of llama-tiny on two tensor and two data ranks") {
  const Plan plan = plan_of(scenario(
      "model: llama-tiny\nparallel: {tp: 2, dp: 2}\ntraining: {micro_batch: 2, global_batch: "
      "8}\n"));
  const Traffic expected = {
      {{"embed", "all_reduce", 16'384}, 2},     {{"attn.in", "all_reduce", 16'384}, 16},
      {{"attn.out", "all_reduce", 16'384}, 16}, {{"mlp.in", "all_reduce", 16'384}, 16},
      {{"mlp.out", "all_reduce", 16'384}, 16},  {{"head", "all_reduce", 16'384}, 2},
      {{"ce.max", "all_reduce", 256}, 2},       {{"ce.sum", "all_reduce", 512}, 2},
      {{"grad.dp", "all_reduce", 659'968}, 1},  {{"norm", "all_reduce", 8}, 1},
      {{"metrics", "all_reduce", 64}, 1}};
  CHECK(text(traffic(plan, 0)) == text(expected));
  std::int64_t reductions = 0;
  for (const auto& [key, calls] : expected)
    if (std::get<2>(key) == 16'384) reductions += calls;
  CHECK(reductions == 68);
  CHECK(ring_total(plan, 0, "tp") == 1'114'112 + 2 * 256 + 2 * 512);
  CHECK(ring_total(plan, 0, "dp") == 4 * 164'992);
}

// C6: llama-tiny W2 d2.
TEST_CASE("goldens C6: communication of llama-tiny on two data ranks") {
  const Plan plan = plan_of(scenario("model: llama-tiny\nparallel: {dp: 2}\n"));
  const Traffic expected = {{{"grad.dp", "all_reduce", 1'315'328}, 1},
                            {{"norm", "all_reduce", 8}, 1},
                            {{"metrics", "all_reduce", 64}, 1}};
  CHECK(text(traffic(plan, 0)) == text(expected));
}

// Rope turns q and k where they lie, between the product and the attention that saves them.
TEST_CASE("goldens: the ops of a llama layer") {
  const std::string plan = print(plan_of(scenario(
      "model: {preset: llama-tiny, layers: 1}\nparallel: {tp: 2}\ntraining: {micro_batch: 2, "
      "global_batch: 2}\n")));
  for (const char* part :
       {" rmsnorm_fwd tokens=64 width=64 eps=1e-05", "linear_fwd tokens=64 in=64 out=64\n",
        "rope_fwd batch=2 heads=2 seq=32 head_dim=16 kv_heads=1 base=10000",
        "attention_fwd batch=2 heads=2 seq=32 head_dim=16 kv_heads=1 causal flash",
        "residual_fwd tokens=64 width=64", "linear_fwd tokens=64 in=64 out=128",
        "swiglu_fwd tokens=64 width=64", "rmsnorm_bwd_input tokens=64 width=64\n",
        "layers.0.attn.qkv.weight slice=0:tp parts=q:32,k:16,v:16",
        "layers.0.mlp.gate_up.weight slice=0:tp parts=gate,up",
        "layers.0.mlp.down.weight slice=1:tp"})
    CHECK_MESSAGE(plan.find(part) != std::string::npos, part << " not in\n" << plan);
  CHECK(plan.find("bias") == std::string::npos);
  CHECK(plan.find("pos_embed") == std::string::npos);
}

// The presets lower, verify and have the FLOPs of the closed form at their real sizes.
TEST_CASE("goldens: plans of the llama presets") {
  for (const char* text :
       {"model: llama2-7b\nparallel: {tp: 8, pp: 4}\ncluster: dgx-h100 x 4\n",
        "model: llama-8b\nparallel: {tp: 8}\ncluster: dgx-h100\n",
        "model: llama-70b\nparallel: {tp: 8, pp: 8}\ncluster: dgx-h100 x 8\n",
        "model: llama-405b\nparallel: {tp: 8, pp: 14}\ncluster: dgx-h100 x 14\n"}) {
    CAPTURE(text);
    const Scenario s = scenario(std::string(text) + "training: {precision: bf16}\n");
    const Plan plan = plan_of(s);
    const Verification v = verify_plan(plan);
    REQUIRE_MESSAGE(v.errors.empty(), to_text(v.errors));
    CHECK(v.deadlock_free);
    for (int p = 0; p < s.parallel.pp; ++p)
      CHECK(executed_flops(plan, ProgramId{p}) == executed_flops_of_rank(s, p));
  }
}

TEST_CASE("goldens: one rank sends nothing") {
  for (const char* model : {"gpt-tiny", "llama-tiny"})
    CHECK(traffic(plan_of(scenario(fmt::format("model: {}\n", model))), 0).empty());
}

TEST_CASE("goldens: calls and bytes of every tag, random models and meshes") {
  for (std::uint32_t i = 0; i < kCases; ++i) {
    const std::string yaml = random_case(i, "early");
    CAPTURE(yaml);
    const Scenario s = scenario(yaml);
    const Plan plan = plan_of(s);
    for (int p = 0; p < s.parallel.pp; ++p) {
      CAPTURE(p);
      REQUIRE(text(traffic(plan, p)) == text(expected_traffic(s, p)));
    }
  }
}

TEST_CASE("goldens: executed FLOPs, random models and meshes") {
  for (std::uint32_t i = 0; i < kCases; ++i) {
    const std::string yaml = random_case(i, "early");
    CAPTURE(yaml);
    const Scenario s = scenario(yaml);
    const Plan plan = plan_of(s);
    for (int p = 0; p < s.parallel.pp; ++p)
      REQUIRE(executed_flops(plan, ProgramId{p}) == executed_flops_of_rank(s, p));
  }
}

TEST_CASE("goldens: plans verify, deadlock-free at every level, random models and meshes") {
  for (std::uint32_t i = 0; i < kCases; ++i) {
    const std::string yaml = random_case(i, i % 2 == 0 ? "early" : "deferred_parity");
    CAPTURE(yaml);
    const Verification v = verify_plan(plan_of(scenario(yaml)));
    REQUIRE_MESSAGE(v.errors.empty(), to_text(v.errors));
    REQUIRE(v.deadlock_free);
  }
}

// scenarios/gpt3-175b-1024.yaml: TP 8, PP 16, DP 8. Stage 0 holds most: 16 microbatches are open.
// Static bytes and kept bytes by hand: a layer on a rank has 12 H^2 / 8 matrix elements of 18 B.
TEST_CASE("goldens: gpt3-175b on 1,024 devices verifies and fits 80 GB; on 8 stages too") {
  for (int stages : {16, 8}) {
    CAPTURE(stages);
    const auto s =
        read_scenario("scenarios/gpt3-175b-1024.yaml", {fmt::format("parallel.pp={}", stages)});
    REQUIRE(s.ok());
    const Plan plan = plan_of(*s);
    const Verification v = verify_plan(plan);
    REQUIRE_MESSAGE(v.errors.empty(), to_text(v.errors));
    const auto memory = sim::track_memory(plan);
    for (int p = 0; p < stages; ++p) {
      const int open = open_visits(*s, p).value();
      const auto& m = memory[static_cast<std::size_t>(p)];
      CHECK(open == std::min(stages - p, s->num_microbatches()));
      CHECK(m.peak.total <= peak_bound(*s, p, open) + 2 * 2048 * 12288 * 2);  // two receives ahead
      CHECK(m.needed < 80'000'000'000);
      CHECK(executed_flops(plan, ProgramId{p}) == executed_flops_of_rank(*s, p));
    }
    const double h = 12'288, matrices = 12 * h * h / 8 * (96 / stages) * 18;
    CHECK(static_cast<double>(static_bytes(*s, 1).sum()) ==
          doctest::Approx(matrices).epsilon(0.001));  // the rest are norms and biases
  }
}

// Receives just before their consumer: every class is exactly its closed form.
TEST_CASE("goldens: peak bytes of every class, receives deferred") {
  for (std::uint32_t i = 0; i < kCases; ++i) {
    const std::string yaml = random_case(i, "deferred_parity");
    CAPTURE(yaml);
    const Scenario s = scenario(yaml);
    const Plan plan = plan_of(s);
    const auto memory = sim::track_memory(plan);
    for (int p = 0; p < s.parallel.pp; ++p) {
      CAPTURE(p);
      const auto& peak = memory[static_cast<std::size_t>(p)].peak;
      const auto of = [&peak](BufferClass c) { return peak.by_class[static_cast<std::size_t>(c)]; };
      const StaticBytes fixed = static_bytes(s, p);
      const int open = open_visits(s, p).value();
      const KeptBytes kept = kept_bytes(s, p, open);
      const TransientBytes moving = transient_bytes(s, p);
      CHECK(of(BufferClass::param) == fixed.param);
      CHECK(of(BufferClass::grad) == fixed.grad);
      CHECK(of(BufferClass::optim) == fixed.optim);
      CHECK(of(BufferClass::saved_input) == kept.saved_input);
      CHECK(of(BufferClass::saved_weight) == kept.saved_weight);
      CHECK(of(BufferClass::logits) == kept.logits);
      CHECK(of(BufferClass::batch) == kept.batch);
      CHECK(of(BufferClass::activation) == moving.activation);
      CHECK(of(BufferClass::grad_activation) == moving.grad_activation);
      CHECK(of(BufferClass::scratch) == moving.scratch);
      CHECK(of(BufferClass::comm) == moving.comm);
      CHECK(peak.total <= peak_bound(s, p, open));
      CHECK(peak.total >= fixed.sum() + kept.sum());
    }
  }
}

// Receives as early as the sender's sweep puts them: only what is received can wait longer, X w for
// each receive posted ahead of its consumer; everything else keeps its closed form.
TEST_CASE("goldens: early receives add whole messages and nothing else") {
  int ahead_seen = 0;
  for (std::uint32_t i = 0; i < kCases; ++i) {
    const std::string yaml = random_case(i, "early");
    CAPTURE(yaml);
    const Scenario s = scenario(yaml);
    const Plan plan = plan_of(s);
    const auto memory = sim::track_memory(plan);
    const Bytes message = Bytes{s.training.micro_batch} * s.training.sequence * s.model.hidden *
                          size_of(plan_types(s).compute);
    for (int p = 0; p < s.parallel.pp; ++p) {
      CAPTURE(p);
      const auto& peak = memory[static_cast<std::size_t>(p)].peak;
      const auto of = [&peak](BufferClass c) { return peak.by_class[static_cast<std::size_t>(c)]; };
      const int open = open_visits(s, p).value(), m = s.num_microbatches();
      const KeptBytes kept = kept_bytes(s, p, open);
      const TransientBytes moving = transient_bytes(s, p);
      const Bytes act = of(BufferClass::saved_input) - kept.saved_input;
      const Bytes grad = of(BufferClass::grad_activation) - moving.grad_activation;
      CHECK(act % message == 0);
      CHECK(act >= 0);
      CHECK(act / message <= (p == 0 ? 0 : m - open));
      CHECK(grad >= 0);
      CHECK(grad <= (p == s.parallel.pp - 1 ? 0 : (m - 1) * message));
      CHECK(of(BufferClass::saved_weight) == kept.saved_weight);
      CHECK(of(BufferClass::logits) == kept.logits);
      CHECK(of(BufferClass::activation) == moving.activation);
      CHECK(of(BufferClass::scratch) == moving.scratch);
      if (act > 0) ++ahead_seen;
    }
  }
  CHECK(ahead_seen > 0);  // else this case shows nothing
}

// A plan is SPMD: degrees beyond 1 change numbers in it, not its size.
// (Only padding: a tensor that fills its bucket exactly is the bucket, one that does not is a view
// of it.)
TEST_CASE("goldens: the size of a plan does not depend on tp or dp") {
  const auto plan = [](int tp, int dp) {
    return plan_of(scenario(fmt::format(
        "model: gpt-tiny\nparallel: {{tp: {}, pp: 2, dp: {}}}\ntraining: {{global_batch: {}}}\n",
        tp, dp, 8 * dp)));
  };
  const Plan small = plan(2, 2);
  for (const auto& mesh : {std::pair(4, 2), std::pair(2, 4), std::pair(4, 64)}) {
    const int tp = mesh.first, dp = mesh.second;
    CAPTURE(tp);
    CAPTURE(dp);
    const Plan large = plan(tp, dp);
    CHECK(large.ops.size() == small.ops.size());
    CHECK(large.buffers.size() == small.buffers.size());
    CHECK(large.communicators.size() == small.communicators.size());
    CHECK(large.calls.size() == small.calls.size());
  }
  const Plan many = plan(2, 4096);
  CHECK(many.ops.size() == small.ops.size());
  CHECK(many.header.mesh.world() == 4096 * 4);
}

TEST_CASE("goldens: the same scenario gives the same plan; the printed plan reads back") {
  for (std::uint32_t i = 0; i < kCases; i += 10) {
    const std::string yaml = random_case(i, i % 20 == 0 ? "early" : "deferred");
    CAPTURE(yaml);
    const Plan plan = plan_of(scenario(yaml));
    const std::string once = print(plan);
    REQUIRE(once == print(plan_of(scenario(yaml))));
    const auto back = parse_plan(once, "plan.txt");
    REQUIRE_MESSAGE(back.ok(), (back.ok() ? "" : back.error().diagnostics[0].title));
    REQUIRE(print(*back) == once);
  }
}

}  // namespace tandem
