// Goal    validation losses through the command line: equal to autograd's, in every file that tells
// of
//         them, and without a trace in training, also where it resumes.
// Method  real processes. --verify compares with one process (fp64: 1e-10); equality of training is
//         that of losses, norms and the SHA-256 of every shard of a checkpoint; memory is held to
//         the plan that `tandem plan --evaluation` prints.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "common/plan/parse.h"
#include "common/plan/verify/verify.h"
#include "tests/tools/program.h"

using namespace tandem;
using namespace tandem::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

using Words = std::vector<std::string>;

Run execute(const std::string& run, const Words& values, const Words& more = {}) {
  return test::execute("scenarios/learn/01_one_rank.yaml", run, values, more);
}

Json shards(const std::string& checkpoint) {
  const std::string text = slurp(checkpoint + "/manifest.json");
  REQUIRE_MESSAGE(!text.empty(), checkpoint);
  return Json::parse(text)["content"]["files"];
}

}  // namespace

TEST_CASE("execute --verify: validation losses of every layout equal autograd's") {
  const std::vector<Words> layouts = {
      {"parallel.pp=2"},
      {"parallel.tp=2", "parallel.sequence_parallel=true"},
      {"parallel.dp=2", "parallel.zero=3"},
      {"model.preset=mixtral-tiny", "parallel.dp=2", "parallel.ep=2"},
      {"model.preset=deepseek-tiny", "parallel.dp=2", "parallel.ep=2",
       "model.moe.balance.bias_update=0.01"}};
  for (Words values : layouts) {
    CAPTURE(values.front());
    const TempDir folder;
    values.insert(values.end(),
                  {"training.precision=fp64", "training.global_batch=8", "training.steps=4",
                   "training.evaluation.every=2", "training.evaluation.batches=2"});
    const Run r = execute(folder / "run", values, {"--verify"});
    REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
    const Json json = r.json();
    CHECK(json["verify"]["passed"] == true);
    CHECK(json["verify"]["max_rel_evaluation"] <= 1e-10);
    CHECK(json["verify"]["max_rel_grad"] <= 1e-10);
    REQUIRE(json["evaluations"].size() == 2);
    CHECK(json["evaluations"][0]["step"] == 1);
    CHECK(json["evaluations"][1]["step"] == 3);
    CHECK(json["evaluations"][0]["loss"] != json["evaluations"][1]["loss"]);
    CHECK(json["losses"].size() == 4);
    CHECK(json["evaluation_s"] > 0);

    // The plan of the folder is the one that is shown, and memory is what it says.
    Words plan_words = {"plan", "scenarios/learn/01_one_rank.yaml", "--evaluation"};
    const Words given = set_words(values);
    plan_words.insert(plan_words.end(), given.begin(), given.end());
    const std::string text = slurp(folder / "run/plan_evaluation.txt");
    CHECK(test::tandem(plan_words).out == text);
    const Result<Plan> plan = parse_plan(text, "plan_evaluation.txt");
    REQUIRE(plan.ok());
    const Verification v = verify_plan(*plan);
    CHECK(v.ok());
    for (int rank = 0; rank < json["ranks"].get<int>(); ++rank) {
      const Json k = Json::parse(slurp(folder / fmt::format("run/ranks/{}.json", rank)));
      const Json& evaluation = k["evaluation"];
      const auto program = plan->program_of(Rank{rank}).index();
      if (evaluation.contains("rows")) {  // exec_evaluation_test puts the rows into the plan
        CHECK(evaluation["peak_by_class"].at("param") ==
              v.programs[program].by_class[static_cast<std::size_t>(BufferClass::param)]);
      } else {
        CHECK(evaluation["peak_bytes"] == v.programs[program].peak);
        for (int c = 0; c < kNumBufferClasses; ++c) {
          const Bytes expected = v.programs[program].by_class[static_cast<std::size_t>(c)];
          const std::string name(name_of(static_cast<BufferClass>(c)));
          CHECK(evaluation["peak_by_class"].value(name, Bytes{0}) == expected);
        }
      }
      for (const Json& row : evaluation["communication"]) {
        CHECK(row["bytes_sent"] == row["bytes_sent_by_law"]);
        CHECK(row["calls"].get<int>() > 0);
      }
      CHECK_FALSE(evaluation["peak_by_class"].contains("grad"));
    }
  }
}

TEST_CASE("training is bit by bit the same with and without evaluation, also where it resumes") {
  const TempDir folder;
  const auto train = [&](const std::string& name, int steps, Words values, const Words& more = {}) {
    for (const std::string& v :
         {std::string("parallel.pp=2"), std::string("parallel.dp=2"),
          std::string("parallel.zero=3"), std::string("training.global_batch=8"),
          std::string("execute.warmup_steps=0"), fmt::format("training.steps={}", steps),
          "training.checkpoint.directory=" + (folder / ("ck-" + name))})
      values.push_back(v);
    const Run r = execute(folder / name, values, more);
    REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
    return r.json();
  };
  const auto end = [&](const std::string& name) {
    return folder / ("ck-" + name + "/step-0000000006");
  };
  const Words evaluated = {"training.evaluation.every=3"};
  const Json without = train("without", 6, {}), with = train("with", 6, evaluated);
  CHECK(without["losses"] == with["losses"]);
  CHECK(without["peak_bytes"] == with["peak_bytes"]);
  CHECK(without["communication"] == with["communication"]);
  CHECK(without["evaluations"].empty());
  CHECK(shards(end("without")) == shards(end("with")));
  // 4 steps and 2 more are 6: the losses of the second evaluation too.
  const Json first = train("parts", 4, evaluated),
             rest = train("parts", 6, evaluated, {"--resume"});
  CHECK(shards(end("parts")) == shards(end("with")));
  REQUIRE(with["evaluations"].size() == 2);
  CHECK(first["evaluations"] == Json::array({with["evaluations"][0]}));
  CHECK(rest["evaluations"] == Json::array({with["evaluations"][1]}));
  const auto a = json_lines(folder / "with/metrics.jsonl"),
             b = json_lines(folder / "parts/metrics.jsonl");
  REQUIRE(a.size() == 6);
  REQUIRE(b.size() == 6);
  for (std::size_t k = 0; k < 6; ++k) {
    CHECK(a[k]["loss"] == without["losses"][k]);
    CHECK(a[k]["loss"] == b[k]["loss"]);
    CHECK(a[k].contains("evaluation_loss") == (k % 3 == 2));
    if (k % 3 != 2) continue;
    const double loss = a[k]["evaluation_loss"];
    CHECK(loss == with["evaluations"][k / 3]["loss"]);
    CHECK(b[k]["evaluation_loss"] == loss);
    CHECK(a[k]["evaluation_perplexity"] == std::exp(loss));
  }
}

TEST_CASE("the files of a run that evaluates, and none of another's") {
  const TempDir folder;
  const std::string run = folder / "run";
  REQUIRE(execute(run, {"training.evaluation.every=2"}).code == 0);
  CHECK(slurp(run + "/manifest.json").find("\"plan_evaluation.txt\"") != std::string::npos);
  CHECK(Json::parse(slurp(run + "/training.json"))["evaluation_every"] == 2);
  const Run words = test::tandem({"execute", "scenarios/learn/01_one_rank.yaml", "-o",
                                  folder / "words", "--set", "training.evaluation.every=2"},
                                 -1, 100);
  CHECK(words.out.find("validation losses after step  2: ") != std::string::npos);
  // simulate writes it too; the same run without evaluation takes it away.
  const auto simulate = [&](const Words& values) {
    Words arguments = {"simulate", "scenarios/quickstart.yaml", "-o", folder / "predicted", "-q"};
    const Words given = set_words(values);
    arguments.insert(arguments.end(), given.begin(), given.end());
    REQUIRE(test::tandem(arguments).code == 0);
    return fs::exists(folder / "predicted/plan_evaluation.txt");
  };
  CHECK(simulate({"training.evaluation.every=2"}));
  CHECK_FALSE(simulate({}));
}

TEST_CASE("plan --evaluation: views, and what is refused") {
  const std::string scenario = "scenarios/learn/05_1f1b.yaml";
  const Run grid = test::tandem(
      {"plan", scenario, "--evaluation", "--grid", "--set", "training.global_batch=3"});
  CHECK(grid.out == "rank 0  F0 F1 F2 .\nrank 1  .  F0 F1 F2\n");
  const TempDir folder;
  const std::string file = folder / "plan.txt";
  spill(file, test::tandem({"plan", scenario, "--evaluation"}).out);
  CHECK(test::tandem({"plan", file}).out == slurp(file));
  CHECK(test::tandem({"plan", file, "--evaluation"}).code == 2);
  const Run written = test::tandem({"plan", scenario, "--evaluation", "-o", folder / "run"});
  CHECK(written.code == 2);
  CHECK(written.err.find("E-CLI-005") != std::string::npos);
}

TEST_CASE("a validation text that is too short is refused with its length") {
  const TempDir folder;
  spill(folder / "text", std::string(300, 'x'));
  const Words values = {"training.data.path=" + (folder / "text"), "training.sequence=32",
                        "training.evaluation.every=1"};
  const Run r = execute(folder / "run", values);
  CHECK(r.code == 3);
  CHECK_MESSAGE(r.out.find("30 bytes to evaluate") != std::string::npos, r.out);
}
