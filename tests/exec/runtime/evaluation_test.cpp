// Goal    the losses of an evaluation are those of plain autograd, on every kind of layout; its
// memory
//         is what its plan says; and training does not notice it.
// Method  ranks are threads; each trains three steps and evaluates after the second and third
// through
//         run_batch(). fp64 against run_reference() within 1e-10; parameters bit by bit against the
//         same run without evaluation; peaks by class against the plan with the rows that were
//         seen.
#include "exec/train/evaluation.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <thread>

#include "common/plan/build.h"
#include "common/plan/live_bytes.h"
#include "common/plan/training.h"
#include "common/scenario/read.h"
#include "exec/runtime/lent_buffers.h"
#include "exec/train/reference.h"
#include "exec/train/shard.h"
#include "tests/exec/runtime/memory_comm.h"

namespace tandem::exec {
namespace {

Scenario scenario(const std::string& text) {
  auto s = read_scenario_text("t.yaml", "tandem: 1\n" + text,
                              {"training.init=test", "training.data.kind=random",
                               "execute.warmup_steps=0", "training.steps=3"});
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
  return *s;
}

struct RankOutcome {
  std::string error;
  std::vector<double> losses, evaluations;
  std::vector<EvaluationLoss> told;
  std::map<std::string, std::string> parameters;  // bytes by name: what lives for the run
  PeakMemory peak, evaluation_peak;
  std::vector<RunTimeRows> rows;
  Bytes evaluation_slab = 0;
};

struct Run {
  Plan plan, evaluation;
  std::vector<RankOutcome> ranks;
};

void run_one(const Run& run, Rank rank, const TrainingConfig& config, CommBackend& comm,
             CommBackend& evaluation_comm, RankOutcome& out) {
  const auto failed = [&](const Error& e) {
    out.error = to_text(e.diagnostics);
    comm.abort();
    evaluation_comm.abort();
  };
  auto interpreter = interpreter_on_cpu(run.plan, rank, config, comm);
  if (!interpreter) return failed(interpreter.error());
  std::unique_ptr<Evaluator> evaluator;
  if (config.evaluation_every > 0) {
    auto own = Evaluator::create(run.evaluation, run.plan, config, evaluation_comm, nullptr,
                                 **interpreter);
    if (!own) return failed(own.error());
    evaluator = std::move(*own);
  }
  for (int step = 0; step < config.steps; ++step) {
    const Result<StepResult> result = (*interpreter)->run_step(false);
    if (!result) return failed(result.error());
    out.losses.push_back(result->loss);
    if (!evaluates_after(config, step)) continue;
    const Result<EvaluationLoss> e = evaluator->run(step);
    if (!e) return failed(e.error());
    CHECK(e->step == step);
    out.evaluations.push_back(e->loss);
  }
  for (BufferId id : run.plan.persistent(run.plan.program_of(rank))) {
    const Buffer& b = run.plan.buffer(id);
    if (b.alias_of.valid()) continue;
    const View v = (*interpreter)->view(id);
    out.parameters[std::string(name_of(b.cls)) + " " + run.plan.name(b.name)].assign(
        reinterpret_cast<const char*>(v.data), static_cast<std::size_t>(b.bytes()));
  }
  out.peak = (*interpreter)->peak();
  if (!evaluator) return;
  out.evaluation_peak = evaluator->interpreter().peak();
  out.rows = evaluator->interpreter().rows_seen();
  out.evaluation_slab = evaluator->interpreter().slab_bytes();
}

Run execute(const Scenario& s) {
  Run run;
  auto plan = build_plan(s), evaluation = build_evaluation_plan(s);
  REQUIRE(plan.ok());
  REQUIRE(evaluation.ok());
  run.plan = std::move(*plan);
  run.evaluation = std::move(*evaluation);
  const TrainingConfig config = training_config(s);
  const auto world = static_cast<std::size_t>(run.plan.header.mesh.world());
  run.ranks.resize(world);
  Meeting meeting(run.plan), evaluation_meeting(run.evaluation);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < world; ++r)
    threads.emplace_back([&, r] {
      const Rank rank{static_cast<std::int64_t>(r)};
      MemoryComm comm(meeting, rank), own(evaluation_meeting, rank);
      run_one(run, rank, config, comm, own, run.ranks[r]);
    });
  for (std::thread& t : threads) t.join();
  for (const RankOutcome& r : run.ranks) REQUIRE_MESSAGE(r.error.empty(), r.error);
  return run;
}

// The peaks of a rank's plan, by class, with the rows of each batch.
ClassBytes expected_peaks(const Run& run, Rank rank, const RankOutcome& out) {
  const ProgramId program = run.evaluation.program_of(rank);
  const ClassBytes persistent = persistent_bytes(run.evaluation)[program.index()];
  std::vector<RunTimeRows> batches = out.rows;
  if (batches.empty()) batches.emplace_back();
  ClassBytes most{};
  for (const RunTimeRows& rows : batches)
    raise_to(most, peak_with_rows(run.evaluation, program, persistent, rows).by_class);
  return most;
}

void check(const std::string& job, const std::string& precision = "fp64", double limit = 1e-10) {
  CAPTURE(job);
  const std::string training =
      "training: {global_batch: 8, micro_batch: 2, precision: " + precision;
  const Scenario plain = scenario(job + training + "}\n");
  const Scenario evaluated = scenario(job + training + ", evaluation: {every: 1, batches: 2}}\n");
  Scenario second = evaluated;
  second.training.evaluation.every = 2;
  const Run without = execute(plain), with = execute(evaluated);
  Result<ReferenceRun> reference = run_reference(training_config(evaluated), 0);
  REQUIRE(reference.ok());
  for (std::size_t r = 0; r < with.ranks.size(); ++r) {
    CAPTURE(r);
    const RankOutcome& out = with.ranks[r];
    REQUIRE(out.evaluations.size() == 3);
    for (std::size_t k = 0; k < 3; ++k) {
      const double expected = reference->steps[k].evaluation_loss.value();
      CHECK(std::abs(out.evaluations[k] - expected) <= limit * expected);
      CHECK(out.evaluations[k] == with.ranks[0].evaluations[k]);
    }
    // Training: bit by bit.
    CHECK(out.losses == without.ranks[r].losses);
    CHECK((out.parameters == without.ranks[r].parameters));
    CHECK(out.peak.by_class == without.ranks[r].peak.by_class);
    // Memory.
    const Rank rank{static_cast<std::int64_t>(r)};
    CHECK(out.evaluation_peak.by_class == expected_peaks(with, rank, out));
    const ClassBytes& peak = out.evaluation_peak.by_class;
    const auto of = [&](BufferClass c) { return peak[static_cast<std::size_t>(c)]; };
    CHECK(of(BufferClass::param) ==
          persistent_bytes(with.plan)[with.plan.program_of(rank).index()]
                                     [static_cast<std::size_t>(BufferClass::param)]);
    CHECK(of(BufferClass::saved_input) + of(BufferClass::saved_weight) + of(BufferClass::grad) ==
          0);
  }
  // The same sequences each time: fewer evaluations see the same losses.
  if (with.ranks.size() > 2) return;
  const Run fewer = execute(second);
  REQUIRE(fewer.ranks[0].evaluations.size() == 1);
  CHECK(fewer.ranks[0].evaluations[0] == with.ranks[0].evaluations[1]);
}

}  // namespace

TEST_CASE("evaluation, fp64: gpt on one rank, pp 2 and 4") {
  check("model: gpt-tiny\n");
  check("model: gpt-tiny\nparallel: {pp: 2}\n");
  check("model: gpt-tiny\nparallel: {pp: 4}\nschedule: gpipe\n");
}
TEST_CASE("evaluation, fp64: tp 2 with sequence parallelism, vocabulary split and whole") {
  check("model: llama-tiny\nparallel: {tp: 2, sequence_parallel: true}\n");
  check("model: gpt-tiny\nparallel: {tp: 2, sequence_parallel: true, vocab_parallel: false}\n");
  check("model: gpt-tiny\nparallel: {tp: 2, pp: 2}\n");
}
TEST_CASE("evaluation, fp64: dp 2 with ZeRO 0 to 3") {
  for (const char* zero : {"0", "1", "2", "3"})
    check("model: gpt-tiny\nparallel: {dp: 2, zero: " + std::string(zero) + "}\n");
  check("model: llama-tiny\nparallel: {dp: 2, pp: 2, zero: 3}\n");
}
TEST_CASE("evaluation, fp64: experts over ep 2, and over pp") {
  check("model: mixtral-tiny\nparallel: {dp: 2, ep: 2}\n");
  check("model: mixtral-tiny\nparallel: {pp: 2}\n");
}
TEST_CASE("evaluation, fp64: deepseek, whose routers' biases move with training alone") {
  check("model: {preset: deepseek-tiny, moe: {balance: {bias_update: 0.01}}}\n");
  check(
      "model: {preset: deepseek-tiny, moe: {balance: {bias_update: 0.01}}}\n"
      "parallel: {tp: 2, sequence_parallel: true}\n");
  check(
      "model: {preset: deepseek-tiny, moe: {balance: {bias_update: 0.01}}}\nparallel: {dp: 2, ep: "
      "2}\n");
}
TEST_CASE(
    "evaluation, fp64: a ring over cp 2, expert tensor parallelism, the other mapping and style") {
  check("model: llama-tiny\nparallel: {cp: 2, tp: 2}\n");
  check("model: mixtral-tiny\nparallel: {tp: 2, dp: 2, ep: 2, etp: 2}\n");
  check("model: mixtral-tiny\nparallel: {mapping: nano_train, tp: 2, ep: 2, zero: 1}\n");
  check("model: deepseek-tiny\nparallel: {style: nano_train, pp: 2, ep: 2}\n");
}

TEST_CASE("evaluation, fp32 and bf16: parameters as training left them") {
  check("model: gpt-tiny\nparallel: {dp: 2, zero: 3}\n", "fp32", 1e-5);
  check("model: llama-tiny\nparallel: {pp: 2}\n", "bf16", 1e-2);
}

TEST_CASE("an evaluation of other buffers is refused with the buffer's name") {
  const Scenario s = scenario("model: gpt-tiny\n");
  const auto refused = [](const Plan& evaluation, const Plan& training) {
    const auto lent = lent_buffers(evaluation, training, ProgramId{0});
    return lent.ok() ? std::string("none")
                     : lent.error().diagnostics[0].code + " " + lent.error().diagnostics[0].found;
  };
  const Plan training = *build_plan(s), evaluation = *build_evaluation_plan(s);
  CHECK(refused(evaluation, training) == "none");
  const Plan layers = *build_evaluation_plan(scenario("model: {preset: gpt-tiny, layers: 9}\n"));
  CHECK(refused(layers, training).find("E-EXEC-035 param ") == 0);
  const Plan wide =
      *build_evaluation_plan(scenario("model: {preset: gpt-tiny, ffn_hidden: 128}\n"));
  CHECK(refused(wide, training).find("another type or shape") != std::string::npos);
  const Plan precise =
      *build_evaluation_plan(scenario("model: gpt-tiny\ntraining: {precision: fp64}\n"));
  CHECK(refused(precise, training).find("another type or shape") != std::string::npos);
}

TEST_CASE("an evaluation cannot run by itself") {
  const Scenario s = scenario("model: gpt-tiny\n");
  const Plan plan = *build_evaluation_plan(s);
  Meeting meeting(plan);
  MemoryComm comm(meeting, Rank{0});
  const auto made = interpreter_on_cpu(plan, Rank{0}, training_config(s), comm);
  REQUIRE_FALSE(made.ok());
  CHECK(made.error().diagnostics[0].code == "E-EXEC-035");
}

}  // namespace tandem::exec
