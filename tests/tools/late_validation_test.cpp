// Goal    updates that are checked late (schedule.optimizer_barrier post_validated) give, bit by
//         bit, what waiting for the norm gives: where no step is rolled back, where some are, and
//         where all are; with checkpoints, evaluations and resumption between them.
// Method  real processes, both barriers side by side. Equality of all parameters and moments is
//         that of the SHA-256 of every shard of a checkpoint, of values that of metrics.jsonl.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>

#include "tests/tools/program.h"

using namespace tandem::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr int kSteps = 6;

struct Job {
  std::string parallel, schedule, model = "gpt-tiny", clip = "1.0", more = {};
  TempDir folder = {};

  // `words`: of the command line.
  [[nodiscard]] Run run(bool late, const std::string& name, int steps = kSteps,
                        const std::vector<std::string>& words = {}) const {
    const std::string path = folder / (name + ".yaml");
    spill(path,
          fmt::format(
              "tandem: 1\nseed: 1234\nmodel: {}\n"
              "training: {{init: test, global_batch: 8, micro_batch: 1, "
              "data: {{kind: random}}, optimizer: {{lr: 1e-2, warmup_steps: 2, clip: {}}}{}}}\n"
              "parallel: {{{}}}\nschedule: {{kind: {}, optimizer_barrier: {}}}\n"
              "execute: {{warmup_steps: 0}}\n",
              model, clip, more, parallel, schedule, late ? "post_validated" : "synchronous"));
    return execute(path, folder / ("run-" + name),
                   {fmt::format("training.steps={}", steps),
                    "training.checkpoint.directory=" + (folder / name)},
                   words);
  }
  [[nodiscard]] Json shards(const std::string& name, int step) const {
    const std::string path = (folder / name) + fmt::format("/step-{:010}/manifest.json", step);
    const std::string text = slurp(path);
    REQUIRE_MESSAGE(!text.empty(), path);
    return Json::parse(text)["content"]["files"];
  }
  [[nodiscard]] std::vector<Json> metrics(const std::string& name) const {
    return json_lines(folder / ("run-" + name) + "/metrics.jsonl");
  }
};

void check_values(const Job& job, const std::string& a, const std::string& b, int steps) {
  const auto one = job.metrics(a), other = job.metrics(b);
  REQUIRE(one.size() == static_cast<std::size_t>(steps));
  REQUIRE(other.size() == one.size());
  for (std::size_t k = 0; k < one.size(); ++k)
    for (const char* key : {"step", "loss", "grad_norm", "clip_coef", "lr", "tokens",
                            "clipped_share", "balance_loss", "dropped"}) {
      if (!one[k].contains(key)) continue;
      CAPTURE(key);
      CHECK(one[k][key] == other[k][key]);
    }
}

// Runs both; says how many steps of the late one were rolled back.
int check_equal(const Job& job) {
  INFO(job.model << " " << job.parallel << " " << job.schedule << " clip " << job.clip);
  const Run waits = job.run(false, "waits"), late = job.run(true, "late");
  REQUIRE_MESSAGE(waits.code == 0, waits.out);
  REQUIRE_MESSAGE(late.code == 0, late.out);
  CHECK(job.shards("late", kSteps) == job.shards("waits", kSteps));
  check_values(job, "late", "waits", kSteps);
  CHECK_FALSE(waits.json().contains("roll_backs"));
  return late.json()["roll_backs"].get<int>();
}

}  // namespace

TEST_CASE("late updates are those that wait: never, sometimes and always rolled back") {
  for (const char* schedule : {"1f1b", "zb_h2", "zbv"}) {
    CHECK(check_equal({"pp: 2", schedule, "gpt-tiny", "none"}) == 0);
    const int some = check_equal({"pp: 2", schedule, "gpt-tiny", "1.0"});
    CHECK(some > 0);
    CHECK(some < kSteps - 1);
    // The last step is settled at the end of the run: there is no step to roll back.
    CHECK(check_equal({"pp: 2", schedule, "gpt-tiny", "0.01"}) == kSteps - 1);
  }
}

TEST_CASE("late updates are those that wait: messages in both directions, slices, ZeRO, experts") {
  CHECK(check_equal({"pp: 4", "dualpipe", "gpt-tiny", "0.5"}) > 0);
  CHECK(check_equal({"pp: 2", "seq1f1b", "llama-tiny", "0.5"}) > 0);
  CHECK(check_equal({"pp: 2, dp: 2, zero: 1", "zb_h2", "llama-tiny", "0.5"}) > 0);
  CHECK(check_equal({"pp: 2, dp: 2, zero: 3", "zb_h1", "llama-tiny", "0.5"}) > 0);
  CHECK(check_equal({"pp: 2, dp: 2, ep: 2", "zb_h2", "deepseek-tiny", "0.5"}) > 0);
  CHECK(check_equal({"pp: 2, dp: 2, zero: 2", "zb_h2", "gpt-tiny", "0.5", ", precision: bf16"}) >
        0);
}

TEST_CASE("checkpoints, evaluations and replicas between late updates see settled parameters") {
  const Job job{"pp: 2, dp: 2", "zb_h2", "gpt-tiny", "0.5",
                ", evaluation: {every: 2, batches: 1}, checkpoint: {every: 3}"};
  const Run waits = job.run(false, "waits", kSteps, {"--check-replicas", "1"});
  const Run late = job.run(true, "late", kSteps, {"--check-replicas", "2"});
  REQUIRE_MESSAGE(waits.code == 0, waits.out);
  REQUIRE_MESSAGE(late.code == 0, late.out);
  for (const int step : {3, 6}) CHECK(job.shards("late", step) == job.shards("waits", step));
  CHECK(late.json()["evaluations"] == waits.json()["evaluations"]);
  CHECK(late.json()["losses"] == waits.json()["losses"]);
  // Looked at behind steps 2, 3, 4 and 6 (the settled ones are not rolled back).
  CHECK(late.json()["roll_backs"] == 2);
}

TEST_CASE("a late run resumes: 3 + 3 steps are 6, bit by bit") {
  const Job job{"pp: 2", "zb_h2", "gpt-tiny", "0.5"};
  const Run whole = job.run(true, "whole"), first = job.run(true, "parts", 3);
  REQUIRE_MESSAGE(whole.code == 0, whole.out);
  REQUIRE_MESSAGE(first.code == 0, first.out);
  const Run second = job.run(true, "parts", kSteps, {"--resume"});
  REQUIRE_MESSAGE(second.code == 0, second.out);
  CHECK(job.shards("parts", kSteps) == job.shards("whole", kSteps));
  check_values(job, "parts", "whole", kSteps);
}

TEST_CASE("a norm that is not finite ends the run by name, with the step that it is of") {
  const Job job{"pp: 2", "zb_h2", "gpt-tiny", "1.0"};
  const std::vector<std::string> wild = {"--set", "training.optimizer.lr=1e30"};
  const Run waits = job.run(false, "waits", kSteps, wild),
            late = job.run(true, "late", kSteps, wild);
  for (const Run* r : {&waits, &late}) {
    CHECK(r->code == 5);
    CHECK(r->out.find("norm_sq = nan in step 1") != std::string::npos);
  }
  CHECK_FALSE(fs::exists(job.folder / "late/step-0000000006"));
}
