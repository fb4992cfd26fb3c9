// Goal    replaying a run's choices hides no wrong router: a choice that is no near tie is found
//         and named, in every precision, where losses and gradients alone may not show it; in fp64
//         any other choice is. And what is replayed is what the run chose, of the right token.
// Method  whole plans on threads. Faults: a run by a plan whose router breaks a rule, and records
//         of choices that somebody has changed.
#include "exec/train/replay.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "common/plan/build.h"
#include "common/scenario/read.h"
#include "exec/train/reference.h"
#include "exec/train/shard.h"
#include "tests/exec/runtime/run_plan.h"

namespace tandem::exec {
namespace {

struct Job {
  Scenario scenario;
  TrainingConfig config;
};

Job job(const std::string& model, const std::string& precision, const std::string& parallel,
        int steps) {
  auto s = read_scenario_text(
      "replay.yaml", "tandem: 1\nseed: 1234\nmodel: " + model +
                         "\ntraining: {init: test, global_batch: 8, micro_batch: 2, "
                         "data: {kind: random}, optimizer: {lr: 1e-2}, precision: " +
                         precision + ", steps: " + std::to_string(steps) + "}\nparallel: {" +
                         parallel + "}\n");
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
  Job out{*s, training_config(*s)};
  out.config.warmup_steps = 0;
  return out;
}

RunOutcome run(const Scenario& scenario, const TrainingConfig& config, const CommHook& hook = {}) {
  auto plan = build_plan(scenario);
  REQUIRE(plan.ok());
  return run_plan(
      std::move(*plan), [&](int) { return config; }, hook);
}

// Token 5 of the third routing that rank 1 recorded in step 0.
std::span<std::int32_t> one_token(RunOutcome& run, int top_k) {
  RankChoices& c = run.tensors[1].choices.at(2);
  REQUIRE(c.step == 0);
  return std::span(c.routed.choice)
      .subspan(static_cast<std::size_t>(5 * top_k), static_cast<std::size_t>(top_k));
}

}  // namespace

TEST_CASE("choices of a run: every token of every layer, where one process routes it") {
  for (const char* parallel : {"dp: 1", "tp: 2, pp: 2, dp: 2, ep: 2", "cp: 2, dp: 2, ep: 2"}) {
    CAPTURE(parallel);
    for (const char* model : {"mixtral-tiny", "deepseek-tiny"}) {
      const Job j = job(model, "fp64", parallel, 2);
      const VerifyReport report = verified(j.config, run(j.scenario, j.config));
      REQUIRE(report.choices);
      CHECK_FALSE(report.judged);
      const int layers = std::string(model) == "mixtral-tiny" ? 8 : 7;
      CHECK(report.choices->routings == 2 * layers * 8 * 32);  // steps, layers, batch, sequence
      CHECK(report.choices->differed == 0);
      CHECK(report.choices->wrong == 0);
    }
  }
}

TEST_CASE("replay: an fp32 run on a mesh needs no choice beyond near ties") {
  const Job j = job("deepseek-tiny", "fp32", "tp: 2, dp: 2, ep: 4", 3);
  const VerifyReport report = verified(j.config, run(j.scenario, j.config));
  REQUIRE(report.judged);
  CHECK(report.verdict().routings == 3 * 7 * 8 * 32);
  CHECK(report.verdict().wrong == 0);
  CHECK(report.max_rel_loss < 1e-4);
  CHECK(report.max_rel_grad < 1e-5);
  CHECK(report.replicas_equal);
}

// Of 4 groups it keeps 2, and this router 3. With its choices replayed all values agree.
TEST_CASE("replay: a router that breaks the rule of groups is found where no value shows it") {
  for (const char* precision : {"fp32", "bf16", "fp64"}) {
    CAPTURE(precision);
    const Job j = job("deepseek-tiny", precision, "dp: 2, ep: 2", 1);
    Job faulty = j;
    faulty.scenario.model.moe.groups_kept = 3;
    const VerifyReport report = verified(j.config, run(faulty.scenario, j.config));
    CHECK(report.verdict().wrong > 0);
    CHECK(report.verdict().largest_gap > allowed_gap(j.config));
    CHECK(report.verdict().largest.starts_with("step 0, layer "));
    if (std::string(precision) == "fp32") {
      CHECK(report.max_rel_loss < 1e-4);
      CHECK(report.max_rel_grad < 1e-5);
    }
    if (std::string(precision) == "fp64") CHECK(report.max_rel_grad > 1e-3);
  }
}

// Wrong biases make other choices, which are right by these biases and are replayed.
TEST_CASE("replay: biases that follow other counts are found where no choice shows it") {
  const Job j = job("deepseek-tiny", "fp32", "dp: 2, ep: 2", 3);
  const double rate = j.config.moe.bias_update;
  REQUIRE(rate > 0);
  CHECK(verified(j.config, run(j.scenario, j.config)).max_abs_bias < rate / 1000);
  const auto own_counts = [](const HookedCall& c) -> Result<Nanoseconds> {
    return c.tag == "bias" ? Result<Nanoseconds>(now_ns()) : c.properly();
  };
  const VerifyReport report = verified(j.config, run(j.scenario, j.config, own_counts));
  CHECK(report.max_abs_bias >= rate * 0.999);
}

TEST_CASE("replay: one wrong choice is found and named") {
  const Job j = job("mixtral-tiny", "fp32", "dp: 2, ep: 2", 1);
  RunOutcome out = run(j.scenario, j.config);
  CHECK(verified(j.config, out).verdict().wrong == 0);
  const RankChoices& c = out.tensors[1].choices.at(2);
  const int layer = out.plan.op(c.routed.op).layer;
  const int microbatch = out.plan.op(c.routed.op).microbatch;
  const std::span<std::int32_t> slots = one_token(out, 2);
  const int other = slots[0] != 0 && slots[1] != 0 ? 0 : slots[0] != 1 && slots[1] != 1 ? 1 : 2;
  slots[0] = other;  // the best expert, for another one
  VerifyReport report = verified(j.config, out);
  CHECK(report.verdict().wrong >= 1);  // and what follows: one process did it, the run did not
  CHECK(report.choices->differed >= 1);
  // Row = position * 2 + sequence; data index 1 of 2.
  const std::string place = "step 0, layer " + std::to_string(layer) + ", sequence " +
                            std::to_string((microbatch * 2 + 1) * 2 + 1) + ", position 2: experts ";
  CAPTURE(report.verdict().largest);
  CHECK(report.verdict().largest.starts_with(place));
  CHECK(report.max_rel_grad > 1e-5);

  slots[0] = slots[1];  // an expert twice: no scores make that, and one process does not
  report = verified(j.config, out);
  CHECK(report.verdict().wrong == 1);
  CHECK(std::isinf(report.verdict().largest_gap));
}

TEST_CASE("replay: in fp64 a choice that differs is wrong, however near the tie") {
  const Job j = job("mixtral-tiny", "fp64", "dp: 2, ep: 2", 1);
  RunOutcome out = run(j.scenario, j.config);
  const std::span<std::int32_t> slots = one_token(out, 2);
  std::swap(slots[0], slots[1]);
  CHECK(verified(j.config, out).verdict().wrong == 0);  // the same experts
  slots[0] = slots[1] == 7 ? 6 : 7;
  const VerifyReport report = verified(j.config, out);
  CHECK(report.verdict().wrong == 1);
  CHECK(report.verdict().differed == 1);
  CHECK(report.max_rel_grad < 1e-10);  // one process went its own way
}

// A run that drops others than the lowest weights: as many, so that counts and bytes are right.
TEST_CASE("replay: dropped assignments are those of the lowest weights") {
  for (const char* precision : {"fp32", "fp64"}) {
    CAPTURE(precision);
    const Job j =
        job("{preset: mixtral-tiny, moe: {capacity_factor: 0.75}}", precision, "dp: 2, ep: 2", 1);
    RunOutcome out = run(j.scenario, j.config);
    CHECK(verified(j.config, out).verdict().wrong == 0);
    std::vector<std::int32_t>& choice = out.tensors[0].choices.at(1).routed.choice;
    std::int32_t* dropped = nullptr;
    for (std::int32_t& e : choice)
      if (e < 0) dropped = &e;
    REQUIRE(dropped);
    std::int32_t* kept = nullptr;
    for (std::int32_t& e : choice)
      if (e == -1 - *dropped) kept = &e;
    REQUIRE(kept);
    std::swap(*dropped, *kept);
    VerifyReport report = verified(j.config, out);
    CHECK(report.verdict().wrong >= 2);  // one kept, one dropped
    CHECK(std::isfinite(report.verdict().largest_gap));
    *dropped = -1 - *dropped;  // and now one more than there must be
    report = verified(j.config, out);
    CHECK(report.verdict().wrong == 1);
    CHECK(std::isinf(report.verdict().largest_gap));
  }
}

TEST_CASE("choices of a run: a token that is missing is said, ranks that disagree are named") {
  const Job j = job("deepseek-tiny", "fp32", "ep: 2, ep_data: replicate, mapping: nano_train", 1);
  RunOutcome out = run(j.scenario, j.config);
  CHECK(put_together(out.plan, nullptr, j.config, out.tensors).ok());
  CHECK(verified(j.config, out).replicas_equal);
  std::int32_t& slot = out.tensors[1].choices.at(0).routed.choice.at(0);
  const std::int32_t before = slot;
  slot = (slot + 1) % 8;
  const VerifyReport report = verified(j.config, out);
  CHECK_FALSE(report.replicas_equal);
  CHECK(report.replica_difference.starts_with("experts of step 0, layer 1, sequence 0"));
  slot = before;

  const Job split = job("deepseek-tiny", "fp32", "dp: 2, ep: 2", 1);
  out = run(split.scenario, split.config);
  out.tensors[1].choices.pop_back();
  const auto broken = put_together(out.plan, nullptr, split.config, out.tensors);
  REQUIRE_FALSE(broken.ok());
  CHECK(broken.error().diagnostics.front().code == "E-EXEC-034");
}

TEST_CASE("files of ranks: choices come back beside tensors, a changed byte is refused") {
  const auto folder = std::filesystem::temp_directory_path() / "tandem_rank_choices";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "3.grads").string();
  float values[4] = {1, 2, 3, 4};
  {
    auto writer = RankTensorWriter::create(path, Rank{3});
    REQUIRE(writer.ok());
    writer->add(TensorKind::gradient, 0, BufferId{7},
                {reinterpret_cast<std::byte*>(values), DType::f32, {4}});
    writer->add(0, false, {OpId{11}, {0, 5, -3, 2}});
    writer->add(1, true, {OpId{12}, {1}});
    REQUIRE(writer->commit().ok());
  }
  const auto back = read_rank_tensors(path);
  REQUIRE(back.ok());
  CHECK(back->rank == Rank{3});
  REQUIRE(back->tensors.size() == 1);
  CHECK(back->tensors[0].data.size() == 16);
  REQUIRE(back->choices.size() == 2);
  CHECK(back->choices[0].routed.op == OpId{11});
  CHECK((back->choices[0].routed.choice == std::vector<std::int32_t>{0, 5, -3, 2}));
  CHECK_FALSE(back->choices[0].evaluation);
  CHECK(back->choices[1].step == 1);
  CHECK(back->choices[1].evaluation);
  for (std::size_t i = 0; i < back->bytes.size(); ++i) {
    std::string changed = back->bytes;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    REQUIRE(write_file_atomic(path, changed).ok());
    // Of the rank number, too: it is under the check sum.
    CHECK_FALSE(read_rank_tensors(path).ok());
  }
  std::filesystem::remove_all(folder);
}

}  // namespace tandem::exec
