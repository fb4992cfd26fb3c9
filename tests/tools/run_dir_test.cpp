// Goal: the rules of a run's folder: who may write it, what is in it, that it is whole, and that
// the same command writes the same bytes.
#include <doctest/doctest.h>

#include <filesystem>
#include <map>

#include "common/base/sha256.h"
#include "common/plan/print.h"
#include "common/plan/training.h"
#include "tests/tools/program.h"

using namespace tandem;
using namespace tandem::test;
namespace fs = std::filesystem;

namespace {

const std::string kSmall = "scenarios/learn/05_1f1b.yaml";

std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    out[entry.path().filename()] = slurp(entry.path());
  return out;
}

}  // namespace

TEST_CASE("simulate writes every file, and the manifest lists size and hash of each") {
  const TempDir dir;
  const Run run = test::tandem({"simulate", kSmall, "-o", dir / "run", "--seed", "5"});
  REQUIRE(run.code == 0);
  const auto files = files_of(dir / "run");
  for (const char* name : {"manifest.json", "scenario.yaml", "plan.txt", "training.json",
                           "corpus.txt", "predicted.pftrace", "summary.json", "report.html"})
    CHECK(files.contains(name));
  const auto manifest = nlohmann::json::parse(files.at("manifest.json"));
  CHECK(manifest["plan_id"] == plan_id_of_text(files.at("plan.txt")));
  CHECK(manifest["seed"] == 5);
  CHECK(manifest["command"] == "tandem simulate " + kSmall + " --seed 5");
  CHECK(manifest["inputs"][kSmall] ==
        sha256_hex(slurp(std::string(TANDEM_SOURCE_DIR) + "/" + kSmall)));
  CHECK(manifest["files"].size() == files.size() - 1);
  for (const auto& entry : manifest["files"].items()) {
    const std::string name = entry.key();
    const auto& file = entry.value();
    CAPTURE(name);
    CHECK(file["sha256"] == sha256_hex(files.at(name)));
    CHECK(file["bytes"] == files.at(name).size());
  }
  // The text to train on lies in the folder, and the folder is named nowhere.
  const auto training = training_from_json(files.at("training.json"), "training.json");
  REQUIRE(training.ok());
  CHECK(training->data_path == "corpus.txt");
  CHECK(training->seed == 5);
  CHECK(files.at("corpus.txt") ==
        slurp(std::string(TANDEM_SOURCE_DIR) + "/scenarios/data/corpus.txt"));
  for (const auto& entry : files) {
    const auto& name = entry.first;
    const auto& bytes = entry.second;
    CAPTURE(name);
    CHECK(bytes.find(dir.path()) == std::string::npos);
  }
}

TEST_CASE("the same command writes the same bytes, into another folder or again into the same") {
  const TempDir dir;
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "a"}).code == 0);
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "b"}).code == 0);
  const auto first = files_of(dir / "a");
  CHECK(first == files_of(dir / "b"));
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "a"}).code == 0);
  CHECK(first == files_of(dir / "a"));
}

TEST_CASE("scenario.yaml of a run is a scenario that gives the same plan and the same prediction") {
  const TempDir dir;
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "a", "--set", "training.steps=7"}).code ==
          0);
  REQUIRE(test::tandem({"simulate", dir / "a/scenario.yaml", "-o", dir / "b"}).code == 0);
  for (const char* name : {"scenario.yaml", "plan.txt", "training.json", "predicted.pftrace"})
    CHECK(slurp(dir / "a/" + name) == slurp(dir / "b/" + name));
}

TEST_CASE("a folder with something else in it is refused and left alone; --force writes") {
  const TempDir dir;
  const auto refused = [&](const std::string& folder, const char* code) {
    const Run run = test::tandem({"simulate", kSmall, "-o", folder});
    CHECK(run.code == 2);
    CHECK(run.err.find(code) != std::string::npos);
  };
  fs::create_directory(dir / "other");
  spill(dir / "other/plan.txt", "mine");
  refused(dir / "other", "E-CLI-006");
  CHECK(files_of(dir / "other") == std::map<std::string, std::string>{{"plan.txt", "mine"}});
  CHECK(test::tandem({"simulate", kSmall, "-o", dir / "other", "--force"}).code == 0);
  CHECK(slurp(dir / "other/plan.txt").starts_with("plan 1"));

  spill(dir / "file", "mine");
  refused(dir / "file", "E-CLI-006");
  CHECK(slurp(dir / "file") == "mine");

  fs::create_directory(dir / "empty");  // nothing to lose
  CHECK(test::tandem({"simulate", kSmall, "-o", dir / "empty"}).code == 0);

  // A run that did not end has no manifest yet, but a plan.
  fs::remove(dir / "empty/manifest.json");
  CHECK(test::tandem({"simulate", kSmall, "-o", dir / "empty"}).code == 0);

  // A run of another plan; another seed or step count is the same plan.
  CHECK(test::tandem({"simulate", kSmall, "-o", dir / "empty", "--set", "training.steps=9"}).code ==
        0);
  const Run other =
      test::tandem({"simulate", kSmall, "-o", dir / "empty", "--set", "schedule=gpipe"});
  CHECK(other.code == 2);
  CHECK(other.err.find("E-CLI-006") != std::string::npos);
}

TEST_CASE("links are not followed: neither the folder nor a file in it") {
  const TempDir dir;
  fs::create_directory(dir / "target");
  fs::create_directory_symlink(dir / "target", dir / "link");
  const Run run = test::tandem({"simulate", kSmall, "-o", dir / "link", "--force"});
  CHECK(run.code == 2);
  CHECK(run.err.find("E-CLI-007") != std::string::npos);
  CHECK(fs::is_empty(dir / "target"));

  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "run"}).code == 0);
  fs::remove(dir / "run/report.html");
  spill(dir / "mine", "mine");
  fs::create_symlink(dir / "mine", dir / "run/report.html");
  CHECK(test::tandem({"simulate", kSmall, "-o", dir / "run"}).code == 0);
  CHECK(slurp(dir / "mine") == "mine");
  CHECK(!fs::is_symlink(dir / "run/report.html"));
}

// /proc: not even root can make a folder there.
TEST_CASE("a folder that cannot be made is 7") {
  const Run run = test::tandem({"simulate", kSmall, "-o", "/proc/tandem-run"});
  CHECK(run.code == 7);
  CHECK(run.err.find("E-IO-011") != std::string::npos);
}

TEST_CASE("readers refuse a folder that is no run, and a run that was changed") {
  const TempDir dir;
  for (const char* command : {"compare", "report", "trace"}) {
    const Run none = test::tandem({command, dir.path()});
    CHECK(none.code == 3);
    CHECK(none.err.find("E-CLI-009") != std::string::npos);
  }
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "run"}).code == 0);
  const Run lacks = test::tandem({"compare", dir / "run"});
  CHECK(lacks.code == 3);
  CHECK(lacks.err.find("E-CLI-011") != std::string::npos);
  spill(dir / "run/plan.txt", slurp(dir / "run/plan.txt") + "\n");
  const Run changed = test::tandem({"report", dir / "run"});
  CHECK(changed.code == 3);
  CHECK(changed.err.find("E-CLI-010") != std::string::npos);
}

TEST_CASE("report and trace write beside the run, or where -o says") {
  const TempDir dir;
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "run"}).code == 0);
  const std::string before = slurp(dir / "run/report.html");
  const Run report = test::tandem({"report", dir / "run", "--json"});
  CHECK(report.code == 0);
  CHECK(report.json()["path"] == dir / "run/report.html");
  CHECK(slurp(dir / "run/report.html") == before);

  CHECK(test::tandem({"trace", dir / "run", "--format", "chrome"}).code == 0);
  CHECK(nlohmann::json::parse(slurp(dir / "run/predicted.json")).contains("traceEvents"));
  CHECK(test::tandem({"trace", dir / "run", "--format", "csv", "-o", dir / "csv"}).code == 0);
  CHECK(slurp(dir / "csv/predicted.csv").starts_with("record,"));
  CHECK(test::tandem({"trace", dir / "run", "-o", dir / "pf"}).code == 0);
  CHECK(slurp(dir / "pf/predicted.pftrace") == slurp(dir / "run/predicted.pftrace"));
  CHECK(test::tandem({"trace", dir / "run", "--format", "kineto"}).code == 2);
  CHECK(test::tandem({"report", dir / "run"}).code == 0);  // the manifest knows predicted.json
}

TEST_CASE("compare of two runs of one plan: the same prediction twice has no error") {
  const TempDir dir;
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "a"}).code == 0);
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "b"}).code == 0);
  const auto same = test::tandem({"compare", dir / "a", dir / "b", "--json", "--tolerance", "0"});
  CHECK(same.code == 0);
  CHECK(same.json()["error_rel"] == 0);
  for (const char* key : {"waterfall", "replay_error_rel", "median_op_error", "peak_memory_error"})
    CHECK(same.json().contains(key));

  // A machine of a sixtieth of the speed: the step takes much longer, and that is beyond 10 %.
  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "slow", "--set", "cluster.preset=local",
                        "--set", "cluster.device.peak.fp32=1 Gflop/s"})
              .code == 0);
  const Run slow = test::tandem({"compare", dir / "a", dir / "slow", "--tolerance", "0.1"});
  CHECK(slow.code == 1);
  CHECK(test::tandem({"compare", dir / "a", dir / "slow", "--json"}).json()["error_rel"] < -0.1);
  CHECK(test::tandem({"compare", dir / "a", dir / "slow", "--tolerance", "-1"}).code == 2);

  REQUIRE(test::tandem({"simulate", kSmall, "-o", dir / "c", "--set", "schedule=gpipe"}).code == 0);
  const Run other = test::tandem({"compare", dir / "a", dir / "c"});
  CHECK(other.code == 3);
  CHECK(other.err.find("E-TIME-006") != std::string::npos);
}
