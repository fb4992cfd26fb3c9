// Goal    `tandem calibrate` and `tandem run` end to end: what they measure is kept and found
// again,
//         and the keys of --json are there.
// Method  a model small enough that measuring takes a second. No time is compared with a number:
// the
//         machine of a test is busy.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <filesystem>

#include "common/model/calibration.h"
#include "tests/tools/program.h"

using namespace tandem;
using test::Run;
using test::spill;
using test::TempDir;
namespace fs = std::filesystem;

namespace {

// A cache of its own for the programs that a test starts.
struct Cache {
  Cache() { ::setenv("XDG_CACHE_HOME", (folder / "cache").c_str(), 1); }
  ~Cache() { ::unsetenv("XDG_CACHE_HOME"); }
  TempDir folder;
};

// Loading LibTorch five times takes a while on a busy machine.
Run run_tandem(const std::vector<std::string>& arguments) {
  return test::tandem(arguments, -1, 90);
}

constexpr const char* kScenario = "scenarios/learn/05_1f1b.yaml";

}  // namespace

TEST_CASE("calibrate: kernels of a scenario, transport, overheads and fits, in a file that reads") {
  const Cache cache;
  const std::string file = cache.folder / "here.cal.json";
  const Run run = run_tandem(
      {"calibrate", "--no-grid", "--scenario", kScenario, "--budget", "0.3", "-o", file, "--json"});
  REQUIRE_MESSAGE(run.code == 0, run.out << run.err);
  const auto json = run.json();
  CHECK(json["ok"] == true);
  CHECK(json["path"] == file);
  CHECK(json["issue_s"].get<double>() > 0);
  REQUIRE(json["wakes"].size() == 2);  // of one rank and of two
  CHECK(json["wakes"][1]["ranks"] == 2);
  CHECK(json["wakes"][1]["seconds"].get<double>() > 0);
  REQUIRE_FALSE(json["fits"].empty());
  const auto c = read_calibration(file);
  REQUIRE_MESSAGE(c.ok(), to_text(c.error().diagnostics));
  CHECK(json["digest"] == digest_of(c->machine, c->precision));
  CHECK(c->kernels.size() > 40);
  CHECK(c->transport("send", 2) != nullptr);
  CHECK(c->transport("all_reduce", 2) != nullptr);
  // A scenario that names it is predicted from measured kernels alone.
  const Run predicted = run_tandem({"simulate", kScenario, "-o", cache.folder / "run", "--json",
                                    "--set", "cluster.calibration=" + file});
  REQUIRE_MESSAGE(predicted.code == 0, predicted.out << predicted.err);
  CHECK(predicted.json()["cost_sources"]["measured"].get<double>() == doctest::Approx(1));
}

TEST_CASE("run: predicts, executes, compares and reports; a second run measures nothing") {
  const Cache cache;
  const std::string folder = cache.folder / "run";
  const Run first = run_tandem({"run", kScenario, "-o", folder, "--json"});
  REQUIRE_MESSAGE(first.code == 0, first.out << first.err);
  const auto json = first.json();
  for (const char* key : {"iteration_s", "losses", "peak_bytes", "bubble", "error_rel", "waterfall",
                          "replay_error_rel", "median_op_error", "peak_memory_error", "predicted",
                          "measured", "calibration", "path"})
    CHECK_MESSAGE(json.contains(key), key);
  CHECK(json["iteration_s"] == json["measured"]["iteration_s"]);
  CHECK(json["peak_memory_error"].get<double>() == 0);
  CHECK(json["calibration"]["kernels_measured"].get<int>() > 20);
  for (const char* name : {"manifest.json", "predicted.pftrace", "measured.pftrace", "report.html",
                           "summary.json", "calibration.cal.json"})
    CHECK_MESSAGE(fs::exists(folder + "/" + name), name);
  // predicted / measured - 1, of the steps that are compared
  CHECK(json["error_rel"].get<double>() ==
        doctest::Approx(json["predicted_s"].get<double>() / json["measured_s"].get<double>() - 1));

  const Run second = run_tandem({"run", kScenario, "-o", folder, "--json"});
  REQUIRE_MESSAGE(second.code == 0, second.out << second.err);
  CHECK(second.json()["calibration"]["kernels_measured"] == 0);
  CHECK(second.json()["calibration"]["digest"] == json["calibration"]["digest"]);
  // Other sizes: only what is missing is measured.
  const Run other = run_tandem({"run", kScenario, "-o", cache.folder / "other", "--json", "--set",
                                "training.micro_batch=2", "--set", "training.global_batch=8"});
  REQUIRE_MESSAGE(other.code == 0, other.out << other.err);
  CHECK(other.json()["calibration"]["kernels_measured"].get<int>() > 0);
  CHECK(other.json()["calibration"]["kernels_measured"].get<int>() <
        json["calibration"]["kernels_measured"].get<int>());
}

TEST_CASE("run: outside the tolerance is exit code 1; a damaged cache is made anew") {
  const Cache cache;
  const std::string folder = cache.folder / "run";
  Run run = run_tandem({"run", kScenario, "-o", folder, "--json", "--tolerance", "0"});
  CHECK_MESSAGE(run.code == 1, run.out << run.err);
  const std::string file = run.json()["calibration"]["path"];
  spill(file, "{");
  run = run_tandem({"run", kScenario, "-o", folder, "--json", "--tolerance", "1e9"});
  CHECK_MESSAGE(run.code == 0, run.out << run.err);
  CHECK(run.json()["calibration"]["kernels_measured"].get<int>() > 20);
  CHECK(read_calibration(file).ok());
}

// 2 x 2^18 x 2^18 elements do not fit into any machine that runs this test.
TEST_CASE("calibrate: a process that cannot measure is E-CAL-008") {
  const Cache cache;
  const Run run = run_tandem({"calibrate", "--no-grid", "--scenario", kScenario, "--json", "--set",
                              "model.hidden=262144", "--set", "model.ffn_hidden=262144"});
  CHECK(run.code == 5);
  CHECK(run.json()["errors"][0]["code"] == "E-CAL-008");
}

TEST_CASE("run and calibrate: what cannot be run is refused before anything is measured") {
  const Cache cache;
  CHECK(run_tandem({"run", kScenario, "-o", cache.folder / "a", "--set", "training.precision=fp16"})
            .code == 4);
  CHECK(
      run_tandem({"calibrate", "--scenario", kScenario, "--set", "training.precision=fp64"}).code ==
      2);
  CHECK_FALSE(fs::exists(cache.folder / "cache"));
}
