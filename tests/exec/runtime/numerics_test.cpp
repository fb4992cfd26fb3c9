// Whole plans against plain autograd: goal and method of models.md 9. Ranks are threads with an
// in-memory transport; every plan comes from the builder and runs three steps.
//   fp64: losses, the norm and EVERY gradient of every step within 1e-10, parameters within 1e-10
//   replicas bitwise equal; PP with `clip: none` bitwise equal to pp = 1
//   measured peak bytes of every rank = peak of the plan walked by hand
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <thread>

#include "common/plan/build.h"
#include "common/schedule/registry.h"
#include "exec/runtime/on_cpu.h"
#include "exec/train/reference.h"
#include "exec/train/shard.h"
#include "exec/train/verify.h"
#include "tests/exec/runtime/run_plan.h"

namespace tandem::exec {
namespace {

struct Layout {
  int tp = 1, pp = 1, dp = 1, micro_batch = 2;
  std::string schedule = "1f1b";
  std::string precision = "fp64";
  bool clip = true, tied = true;
  int vocab = 256, layers = 4, sequence = 32;
  AttentionKind attention = AttentionKind::flash;
  ModelFamily family = ModelFamily::gpt;
  int kv_heads = 4, steps = 3;
  int zero = 0;
  ZeroReduce zero_reduce = ZeroReduce::automatic;
  Recompute recompute = Recompute::none;
  int recompute_layers = 0;
  int cp = 1;
  bool sp = false;
  int slices = 1;  // seq1f1b
};

Layout llama(Layout l, bool tied = false) {
  l.family = ModelFamily::llama;
  l.tied = tied;
  return l;
}

Scenario scenario_of(const Layout& l) {
  Scenario s;
  s.name = "numerics";
  s.seed = 1234;
  ModelSpec& m = s.model;
  m.family = l.family;
  m.layers = l.layers, m.hidden = 64, m.heads = 4, m.kv_heads = l.kv_heads, m.head_dim = 16;
  m.ffn_hidden = l.family == ModelFamily::gpt ? 256 : 128;
  m.vocab = l.vocab, m.max_sequence = 32, m.tied_embeddings = l.tied;
  TrainingSpec& t = s.training;
  t.sequence = l.sequence, t.init = Init::test, t.global_batch = 8, t.micro_batch = l.micro_batch;
  t.precision = l.precision == "fp64" ? Precision::fp64 : Precision::fp32;
  t.steps = l.steps;
  t.attention = l.attention;
  t.recompute = l.recompute, t.recompute_layers = l.recompute_layers;
  if (!l.clip) t.optimizer.clip.reset();
  t.data.kind = DataKind::random;
  s.parallel.tp = l.tp, s.parallel.pp = l.pp, s.parallel.dp = l.dp, s.parallel.cp = l.cp;
  s.parallel.sequence_parallel = l.sp;
  s.schedule.stages_per_rank = default_stages_per_rank(l.schedule, {});
  const int stages = l.pp * s.schedule.stages_per_rank;
  s.parallel.layer_split.assign(static_cast<std::size_t>(stages), l.layers / stages);
  s.parallel.zero = l.zero, s.parallel.zero_reduce = l.zero_reduce;
  s.schedule.kind = l.schedule;
  if (l.slices > 1) s.schedule.options["slices"] = std::to_string(l.slices);
  return s;
}

TrainingConfig config_of(const Layout& l) {
  TrainingConfig c;
  c.seed = 1234;
  c.steps = l.steps, c.warmup_steps = 0;
  c.family = l.family == ModelFamily::gpt ? "gpt" : "llama";
  c.kv_heads = l.kv_heads;
  c.layers = l.layers, c.hidden = 64, c.heads = 4, c.vocab = l.vocab;
  c.ffn_hidden = l.family == ModelFamily::gpt ? 256 : 128;
  c.max_sequence = 32, c.sequence = l.sequence;
  c.tied_embeddings = l.tied;
  c.init = "test";
  c.precision = l.precision;
  c.global_batch = 8, c.micro_batch = l.micro_batch;
  c.lr = 1e-2, c.min_lr = 1e-3, c.lr_warmup_steps = 2, c.decay_steps = 10, c.cosine = true;
  if (!l.clip) c.clip.reset();
  c.data_kind = "random";
  return c;
}

RunOutcome execute(const Layout& layout) {
  Result<Plan> plan = build_plan(scenario_of(layout));
  REQUIRE_MESSAGE(plan.ok(), (plan.ok() ? "" : to_text(plan.error().diagnostics)));
  REQUIRE(plan->header.mesh.world() == layout.tp * layout.pp * layout.dp * layout.cp);
  return run_plan(std::move(*plan), [&](int) { return config_of(layout); });
}

VerifyReport verified(const Layout& layout, const RunOutcome& run) {
  for (const StepResult& s : run.steps[0]) {
    CHECK(s.tokens == 8 * layout.sequence);
    CHECK(s.non_finite == 0);
  }
  return verified(config_of(layout), run);
}

void check_fp64(const Layout& layout) {
  CAPTURE(layout.tp);
  CAPTURE(layout.pp);
  CAPTURE(layout.dp);
  CAPTURE(layout.cp);
  CAPTURE(layout.schedule);
  const RunOutcome run = execute(layout);
  const VerifyReport report = verified(layout, run);
  INFO(report.worst_tensor);
  CHECK(report.max_rel_loss < 1e-10);
  CHECK(report.max_rel_norm < 1e-10);
  CHECK(report.max_rel_grad < 1e-10);
  CHECK(report.max_abs_parameter < 1e-10);
  CHECK_MESSAGE(report.replicas_equal, report.replica_difference);
  for (const auto& steps : run.steps)  // every rank reports the run's values
    for (std::size_t k = 0; k < steps.size(); ++k) {
      CHECK(steps[k].loss == run.steps[0][k].loss);
      CHECK(steps[k].norm == run.steps[0][k].norm);
    }
}

// Peak live bytes of a program by its issue order: allocations before, frees after each op.
Bytes walked_peak(const Plan& plan, ProgramId program) {
  Bytes live = 0;
  for (BufferId id : plan.persistent(program)) live += Plan::own_bytes(plan.buffer(id));
  Bytes peak = live;
  for (const Op& op : plan.ops_of(program)) {
    for (BufferId id : plan.allocates_of(op)) live += Plan::own_bytes(plan.buffer(id));
    peak = std::max(peak, live);
    for (BufferId id : plan.frees_of(op)) live -= Plan::own_bytes(plan.buffer(id));
  }
  return peak;
}

}  // namespace

TEST_CASE("fp64: one rank") { check_fp64({}); }
TEST_CASE("fp64: one rank, untied, materialised, padded vocabulary, short sequence") {
  check_fp64({.tied = false});
  check_fp64({.attention = AttentionKind::materialised});
  check_fp64({.tp = 2, .vocab = 251});
  check_fp64({.sequence = 16});
}
TEST_CASE("fp64: pp 2, 1f1b and gpipe") {
  check_fp64({.pp = 2});
  check_fp64({.pp = 2, .schedule = "gpipe"});
}
TEST_CASE("fp64: pp 4, 1f1b and gpipe") {
  check_fp64({.pp = 4});
  check_fp64({.pp = 4, .schedule = "gpipe"});
}
TEST_CASE("fp64: tp 2, tp 4, dp 2") {
  check_fp64({.tp = 2});
  check_fp64({.tp = 4});
  check_fp64({.dp = 2});
}
TEST_CASE("fp64: two axes") {
  check_fp64({.tp = 2, .pp = 2});
  check_fp64({.pp = 2, .dp = 2});
  check_fp64({.tp = 2, .dp = 2});
  check_fp64({.tp = 2, .pp = 2, .schedule = "gpipe", .tied = false});
}
TEST_CASE("fp64: tp 2, pp 2, dp 2") { check_fp64({.tp = 2, .pp = 2, .dp = 2}); }
TEST_CASE("fp64: rings of cp, alone and with every other axis") {
  check_fp64({.cp = 2});
  check_fp64({.tied = false, .cp = 4});
  check_fp64({.tp = 2, .vocab = 251, .cp = 2});
  check_fp64({.tp = 2, .cp = 2, .sp = true});
  check_fp64({.pp = 2, .schedule = "gpipe", .cp = 2});
  check_fp64({.dp = 2, .sequence = 16, .cp = 2});
}

TEST_CASE("llama, fp64: one rank, tied, materialised, padded vocabulary, short sequence") {
  for (const int kv : {4, 2, 1}) check_fp64(llama({.kv_heads = kv}));
  check_fp64(llama({.kv_heads = 2}, /*tied=*/true));
  check_fp64(llama({.attention = AttentionKind::materialised, .kv_heads = 2}));
  check_fp64(llama({.tp = 2, .vocab = 251, .kv_heads = 2}));
  check_fp64(llama({.sequence = 16, .kv_heads = 2}));
}
TEST_CASE("llama, fp64: one axis") {
  check_fp64(llama({.pp = 2, .kv_heads = 2}));
  check_fp64(llama({.pp = 4, .schedule = "gpipe", .kv_heads = 2}));
  check_fp64(llama({.tp = 2, .kv_heads = 2}));
  check_fp64(llama({.tp = 4}));
  check_fp64(llama({.dp = 2, .kv_heads = 2}));
}
TEST_CASE("llama, fp64: rings of cp, with shared key/value heads") {
  check_fp64(llama({.kv_heads = 2, .cp = 2}));
  check_fp64(llama({.kv_heads = 1, .cp = 4}));
  check_fp64(llama({.sequence = 30, .kv_heads = 2, .cp = 3}));
  check_fp64(llama({.tp = 2, .kv_heads = 2, .cp = 2, .sp = true}));
  check_fp64(llama({.pp = 2, .kv_heads = 2, .cp = 2}, /*tied=*/true));
  check_fp64(llama({.tp = 2, .dp = 2, .kv_heads = 2, .cp = 2}));
}
TEST_CASE("llama, fp64: two and three axes") {
  check_fp64(llama({.tp = 2, .pp = 2, .kv_heads = 2}));
  check_fp64(llama({.pp = 2, .dp = 2, .kv_heads = 2}));
  check_fp64(llama({.tp = 2, .dp = 2, .kv_heads = 2}));
  check_fp64(llama({.tp = 2, .pp = 2, .schedule = "gpipe", .kv_heads = 2}, /*tied=*/true));
  check_fp64(llama({.tp = 2, .pp = 2, .dp = 2, .kv_heads = 2}));
}

// The column of llama-tiny of models.md 2.8, by an independent prototype, through a plan.
TEST_CASE("llama-tiny: losses, norms and gradients of four steps of a plan are the goldens") {
  for (const Layout& l : {llama({.layers = 8, .kv_heads = 2, .steps = 4}),
                          llama({.tp = 2, .pp = 2, .layers = 8, .kv_heads = 2, .steps = 4})}) {
    CAPTURE(l.tp);
    const RunOutcome run = execute(l);
    const std::vector<StepResult>& s = run.steps[0];
    REQUIRE(s.size() == 4);
    CHECK(std::abs(s[0].loss - 5.931469862488) < 1e-9);
    CHECK(std::abs(s[1].loss - 5.858676694350) < 1e-9);
    CHECK(std::abs(s[2].loss - 5.844753450888) < 1e-9);
    CHECK(std::abs(s[3].loss - 5.873094933369) < 1e-9);
    CHECK(std::abs(s[0].norm - 2.878598771877) < 1e-9);
    CHECK(std::abs(s[3].norm - 1.430021918770) < 1e-9);
    // Squares of each tensor's shards, each once: of cut tensors those of all ranks.
    std::map<std::string, double> gradients, parameters;
    for (const RankTensors& r : run.tensors)
      for (const RankTensor& t : r.tensors) {
        if (t.kind == TensorKind::gradient && t.step != 0) continue;
        const Buffer& b = run.plan.buffer(t.buffer);
        const bool cut = b.slice.dim >= 0;
        if (!cut && run.plan.header.mesh.coordinate(r.rank, Axis::tp) != 0) continue;
        double sum = 0;
        for (std::size_t i = 0; i + 8 <= t.data.size(); i += 8) {
          double x = 0;
          std::memcpy(&x, t.data.data() + i, 8);
          sum += x * x;
        }
        (t.kind == TensorKind::gradient ? gradients : parameters)[run.plan.name(b.name)] += sum;
      }
    CHECK(std::abs(std::sqrt(gradients.at("embed.weight")) - 1.245616069375) < 1e-9);
    CHECK(std::abs(std::sqrt(gradients.at("layers.0.norm1.weight")) - 0.100983623027) < 1e-9);
    CHECK(std::abs(std::sqrt(gradients.at("layers.0.attn.o.weight")) - 0.972665427529) < 1e-9);
    double all = 0;
    for (const auto& [name, sum] : parameters) all += sum;
    CHECK(std::abs(std::sqrt(all) - 66.769328773128) < 1e-9);
    CHECK(verified(l, run).num_tensors == 75);
  }
}

TEST_CASE("fp32: gradients of step 0 within 1e-5, losses within 1e-4") {
  for (const Layout& l :
       {Layout{.precision = "fp32"}, Layout{.tp = 2, .pp = 2, .dp = 2, .precision = "fp32"},
        llama({.precision = "fp32", .kv_heads = 2}),
        llama({.tp = 2, .pp = 2, .dp = 2, .precision = "fp32", .kv_heads = 2}),
        llama({.tp = 2, .precision = "fp32", .kv_heads = 2, .cp = 4})}) {
    const VerifyReport report = verified(l, execute(l));
    INFO(report.worst_tensor);
    CHECK(report.max_rel_grad < 1e-5);
    CHECK(report.max_rel_loss < 1e-4);
    CHECK_MESSAGE(report.replicas_equal, report.replica_difference);
  }
}

namespace {

// Losses, gradients and parameters of `layout` are those of one rank, bit by bit.
void check_bitwise(const Layout& base, const std::vector<std::pair<int, const char*>>& runs) {
  const RunOutcome one = execute(base);
  std::map<std::tuple<std::string, int, int>, std::string_view> expected;
  for (const RankTensor& t : one.tensors[0].tensors)
    expected[{one.plan.name(one.plan.buffer(t.buffer).name), static_cast<int>(t.kind), t.step}] =
        t.data;
  for (const auto& [pp, schedule] : runs) {
    CAPTURE(pp);
    CAPTURE(schedule);
    Layout layout = base;
    layout.pp = pp;
    layout.schedule = schedule;
    const RunOutcome many = execute(layout);
    for (std::size_t k = 0; k < 3; ++k) CHECK(many.steps[0][k].loss == one.steps[0][k].loss);
    int compared = 0;
    for (const RankTensors& r : many.tensors)
      for (const RankTensor& t : r.tensors) {
        const std::string name = many.plan.name(many.plan.buffer(t.buffer).name);
        const auto it = expected.find({name, static_cast<int>(t.kind), t.step});
        REQUIRE_MESSAGE(it != expected.end(), name);
        const bool equal = it->second == t.data;
        CHECK_MESSAGE(equal, name);
        ++compared;
      }
    CHECK(compared >= static_cast<int>(expected.size()));
  }
}

}  // namespace

TEST_CASE("pp without clipping is bitwise pp = 1: losses, gradients, parameters") {
  for (const Layout& base :
       {Layout{.precision = "fp64", .clip = false}, Layout{.precision = "fp32", .clip = false},
        llama({.precision = "fp32", .clip = false, .kv_heads = 2})})
    check_bitwise(base, {{2, "1f1b"}, {4, "1f1b"}, {2, "gpipe"}, {4, "gpipe"}});
}

// models.md 4.3, schedules.md 1.2: where the order of W on every stage ascends.
TEST_CASE("every kind whose W ascend is bitwise pp = 1, split or not, on every placement") {
  const std::vector<const char*> kinds = {
      "eager_1f1b", "zb_h1",  "zb_h2", "zb_greedy", "interleaved_1f1b", "interleaved_zb",
      "zbv",        "v_half", "v_min", "hanayo",    "dualpipev"};
  std::vector<std::pair<int, const char*>> runs;
  for (const char* kind : kinds)
    for (int pp : {2, 4}) runs.emplace_back(pp, kind);
  for (const Layout& base :
       {Layout{.micro_batch = 1, .precision = "fp64", .clip = false, .layers = 8},
        llama({.micro_batch = 1, .precision = "fp64", .clip = false, .layers = 8, .kv_heads = 2})})
    check_bitwise(base, runs);
}

// models.md 9: seq1f1b adds the gradients of slices, so it is not bitwise the whole sequences', but
// on every number of stages the same: microbatches ascend, slices of each descend.
TEST_CASE("seq1f1b is bitwise its own pp = 1, and whole sequences within 1e-11") {
  for (Layout base :
       {Layout{.micro_batch = 1, .precision = "fp64", .clip = false, .layers = 8},
        llama({.micro_batch = 1, .precision = "fp64", .clip = false, .layers = 8, .kv_heads = 2})})
    for (const int slices : {2, 8}) {
      CAPTURE(slices);
      const RunOutcome whole = execute(base);
      Layout sliced = base;
      sliced.schedule = "seq1f1b";
      sliced.slices = slices;
      check_bitwise(sliced, {{2, "seq1f1b"}, {4, "seq1f1b"}});
      const RunOutcome run = execute(sliced);
      REQUIRE(run.tensors[0].tensors.size() == whole.tensors[0].tensors.size());
      double worst = 0;
      for (std::size_t i = 0; i < run.tensors[0].tensors.size(); ++i) {
        const RankTensor &got = run.tensors[0].tensors[i], &ref = whole.tensors[0].tensors[i];
        REQUIRE(got.data.size() == ref.data.size());
        REQUIRE(run.plan.name(run.plan.buffer(got.buffer).name) ==
                whole.plan.name(whole.plan.buffer(ref.buffer).name));
        if (got.kind != TensorKind::gradient || got.step != 0) continue;
        double difference = 0, largest = 1e-6 * whole.steps[0][0].norm;
        for (std::size_t e = 0; e < ref.data.size(); e += 8) {
          double x = 0, y = 0;
          std::memcpy(&x, got.data.data() + e, 8);
          std::memcpy(&y, ref.data.data() + e, 8);
          difference = std::max(difference, std::abs(x - y));
          largest = std::max(largest, std::abs(y));
        }
        worst = std::max(worst, difference / largest);
      }
      CHECK(worst < 1e-11);
      CHECK(worst > 0);  // else the slices were not cut
    }
}

// Every element of every parameter at the end, put together from all ranks; each copy is checked.
std::map<std::string, std::vector<double>> parameters_of(const RunOutcome& run) {
  std::map<std::string, std::vector<double>> out;
  for (const RankTensors& r : run.tensors)
    for (const RankTensor& t : r.tensors) {
      if (t.kind != TensorKind::parameter) continue;
      for (const HeldRange& h : ranges_in(run.plan, t.buffer, r.rank)) {
        const Shard& s = h.shard;
        std::vector<double>& all = out[s.name];
        all.resize(static_cast<std::size_t>(s.full_rows * s.full_columns), NAN);
        for (std::int64_t i = h.begin; i < h.end; ++i) {
          double value = 0;
          const char* at = t.data.data() + (h.element + i - h.begin) * t.element_bytes;
          if (t.element_bytes == 8) {
            std::memcpy(&value, at, 8);
          } else {
            float f = 0;
            std::memcpy(&f, at, 4);
            value = static_cast<double>(f);
          }
          double& slot = all[static_cast<std::size_t>(
              (s.row_begin + i / s.columns) * s.full_columns + s.column_begin + i % s.columns)];
          if (!std::isnan(slot)) CHECK(slot == value);
          slot = value;
        }
      }
    }
  return out;
}

// models.md 9: zero 1, 2 (last), 3 (last) = zero 0, with clip none. AdamW is elementwise and every
// chunk is summed in rank order, so a shard's update is the whole one's.
TEST_CASE("ZeRO without clipping is bitwise plain data parallelism") {
  for (const Layout& base :
       {Layout{.dp = 2, .precision = "fp64", .clip = false},
        Layout{.pp = 2, .dp = 2, .precision = "fp32", .clip = false},
        llama({.dp = 4, .micro_batch = 1, .precision = "fp32", .clip = false, .kv_heads = 2}),
        llama({.dp = 2, .precision = "fp32", .clip = false, .kv_heads = 2, .cp = 2})}) {
    const RunOutcome plain = execute(base);
    const auto expected = parameters_of(plain);
    for (int level : {1, 2, 3}) {
      CAPTURE(level);
      Layout layout = base;
      layout.zero = level;
      layout.zero_reduce = ZeroReduce::last;
      const RunOutcome shared = execute(layout);
      for (std::size_t k = 0; k < 3; ++k) CHECK(shared.steps[0][k].loss == plain.steps[0][k].loss);
      CHECK(parameters_of(shared) == expected);
    }
    Layout every = base;
    every.zero = 2;
    const RunOutcome summed = execute(every);
    CHECK(verified(every, summed).max_rel_grad < (base.precision == "fp64" ? 1e-10 : 1e-5));
  }
}

// models.md 9: R runs the same kernels on the same values.
TEST_CASE("recomputation is bitwise none, clipped too") {
  for (const Layout& base :
       {Layout{.pp = 2, .attention = AttentionKind::materialised},
        Layout{.tp = 2, .dp = 2, .precision = "fp32"},
        llama({.tp = 2, .pp = 2, .precision = "fp32", .kv_heads = 2, .zero = 0})}) {
    const RunOutcome kept = execute(base);
    const auto expected = parameters_of(kept);
    Layout full = base, two = base, core = base;
    full.recompute = Recompute::full;
    two.recompute = Recompute::layers, two.recompute_layers = 2;
    core.recompute = Recompute::selective;
    for (const Layout& l : {full, two, core}) {
      CAPTURE(static_cast<int>(l.recompute));
      const RunOutcome again = execute(l);
      for (std::size_t k = 0; k < 3; ++k) CHECK(again.steps[0][k].loss == kept.steps[0][k].loss);
      CHECK(parameters_of(again) == expected);
    }
  }
}

TEST_CASE("two runs are bitwise equal") {
  const Layout l{.tp = 2, .pp = 2, .precision = "fp32"};
  const RunOutcome a = execute(l), b = execute(l);
  for (std::size_t r = 0; r < a.tensors.size(); ++r) {
    REQUIRE(a.tensors[r].tensors.size() == b.tensors[r].tensors.size());
    for (std::size_t i = 0; i < a.tensors[r].tensors.size(); ++i)
      CHECK((a.tensors[r].tensors[i].data == b.tensors[r].tensors[i].data));
  }
}

TEST_CASE("measured timeline: every op once a step, times in order, peak as the plan says") {
  for (const Layout& l : {Layout{.tp = 2, .pp = 2}, llama({.tp = 2, .pp = 2, .kv_heads = 2})}) {
    const RunOutcome run = execute(l);
    for (std::size_t r = 0; r < run.timelines.size(); ++r) {
      const Timeline& t = run.timelines[r];
      const ProgramId program = run.plan.program_of(Rank{static_cast<int>(r)});
      const Program& p = run.plan.programs[program.index()];
      REQUIRE(t.spans.size() == 3 * p.num_ops);
      for (std::size_t i = 0; i < t.spans.size(); ++i) {
        const Span& s = t.spans[i];
        CHECK(s.op.index() == p.first_op + i % p.num_ops);
        CHECK(s.step == static_cast<int>(i / p.num_ops));
        CHECK(s.issued <= s.ended);
        CHECK(s.ready <= s.started);
        CHECK(s.started <= s.ended);
        CHECK(s.cpu >= 0);
        for (OpId w : run.plan.waits_of(run.plan.op(s.op)))
          CHECK(t.spans[i - i % p.num_ops + (w.index() - p.first_op)].ended <= s.ready);
      }
      REQUIRE(t.steps.size() == 3);
      REQUIRE(t.peaks.size() == 1);
      CHECK(t.peaks[0].total == walked_peak(run.plan, program));
      Bytes at_peak = 0;
      for (Bytes b : t.peaks[0].at_peak) at_peak += b;
      CHECK(at_peak == t.peaks[0].total);
      // At the end of a step only what lives for the run is live.
      Bytes persistent = 0, last = 0;
      for (BufferId id : run.plan.persistent(program))
        persistent += Plan::own_bytes(run.plan.buffer(id));
      for (Bytes b : t.memory.back().live) last += b;
      CHECK(last == persistent);
      for (const CallSpan& c : t.calls) CHECK(c.started <= c.ended);
    }
  }
}

TEST_CASE("a diverging run stops by name and updates nothing") {
  const Layout l{.pp = 2};
  Result<Plan> plan = build_plan(scenario_of(l));
  REQUIRE(plan.ok());
  TrainingConfig config = config_of(l);
  config.lr = 1e300;
  config.lr_warmup_steps = 0;
  config.cosine = false;
  Meeting meeting(*plan);
  std::vector<std::string> codes(2);
  std::vector<int> steps(2, 0);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      MemoryComm comm(meeting, Rank{r});
      auto interpreter = interpreter_on_cpu(*plan, Rank{r}, config, comm);
      for (int step = 0; step < 3; ++step) {
        Result<StepResult> result = (*interpreter)->run_step(false);
        if (!result) {
          codes[static_cast<std::size_t>(r)] = result.error().diagnostics[0].code;
          break;
        }
        ++steps[static_cast<std::size_t>(r)];
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(codes[0] == "E-EXEC-031");
  CHECK(codes[1] == "E-EXEC-031");
  CHECK(steps[0] == 1);
}

}  // namespace tandem::exec
