// Goal    `tandem execute --device rehearsal` end to end: real processes that compute nothing,
// compared
//         with their own prediction op by op; without LibTorch; refusals; and faults from outside.
// Method  small plans whose ops are stretched to milliseconds. Times are ratios with room for a
// busy
//         machine, and a try that was late is repeated; everything else is exact.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "common/timeline/perfetto.h"
#include "tests/tools/background.h"

using namespace tandem;
using namespace tandem::test;
namespace fs = std::filesystem;

namespace {

Run rehearse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"execute", "--device", "rehearsal"});
  return test::tandem(arguments, -1, 120);
}

std::string code_of(const Run& r) { return r.json()["errors"][0]["code"]; }

// A rehearsal that goes on for hours.
class Rehearsing : public Background {
 public:
  Rehearsing(const TempDir& folder, std::vector<std::string> more)
      : Background(folder, with(std::move(more))) {}
  // Once both have ended an op, by their flight recorders.
  [[nodiscard]] std::vector<pid_t> ranks() const {
    return ranks_when([&] { return has_ended_an_op(0) && has_ended_an_op(1); });
  }

 private:
  [[nodiscard]] bool has_ended_an_op(int rank) const {
    std::uint64_t done = 0;
    const std::string bytes = slurp(folder() + "/ranks/" + std::to_string(rank) + ".ring");
    if (bytes.size() > 64) std::memcpy(&done, bytes.data() + 56, sizeof done);
    return done != 0;
  }
  static std::vector<std::string> with(std::vector<std::string> more) {
    more.insert(more.begin(), {"--device", "rehearsal", "--set", "training.steps=100000000"});
    return more;
  }
};

const char* const kPipeline =
    "tandem: 1\nmodel: {preset: llama-8b, layers: 4}\n"
    "training: {precision: bf16, sequence: 1024, micro_batch: 1, global_batch: 8, steps: 2}\n"
    "parallel: {pp: 4}\nschedule: 1f1b\ncluster: {preset: dgx-h100, devices_per_node: 4}\n"
    "execute: {device: rehearsal}\noutput: {ranks: all}\n";

}  // namespace

TEST_CASE("rehearsal: a run of four GPUs, held against its prediction op by op") {
  TempDir folder;
  const std::string job = folder / "job.yaml", run = folder / "run";
  std::ofstream(job) << kPipeline;
  double error = 1;
  for (int attempt = 0; attempt < 3 && std::abs(error) > 0.1; ++attempt) {
    const Run r = test::tandem(
        {"execute", job, "--time-scale", "4", "--ranks", "4", "-o", run, "--json"}, -1, 120);
    REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
    const auto json = r.json();
    error = json["rehearsal"]["error_rel"];
    CHECK(json["losses"].empty());
    CHECK(json["ranks"] == 4);
    CHECK(json["rehearsal"]["time_scale"] == 4);
    CHECK(json["tokens_per_s"] > 0);
    // Peaks are the plan's: gigabytes that were never there.
    const auto predicted = nlohmann::json::parse(slurp(run + "/summary.json"))["predicted"];
    CHECK(json["peak_bytes"] == predicted["peak_bytes"]);
    CHECK(json["peak_bytes"][0] > std::int64_t{1} << 32);
    for (int rank = 0; rank < 4; ++rank) {
      const auto own =
          nlohmann::json::parse(slurp(run + "/ranks/" + std::to_string(rank) + ".json"));
      CHECK(own["max_rss_bytes"] < 256 << 20);
      CHECK(own["slab_bytes"] == 0);
      CHECK(own["losses"].empty());
      CHECK(own["step_ns"].size() == 3);
    }
    MESSAGE("error " << error << ", starts " << json["rehearsal"]["median_start_error_visits"]);
  }
  CHECK(std::abs(error) <= 0.1);

  const auto measured = decode_perfetto(slurp(run + "/measured.pftrace"), "measured");
  REQUIRE(measured.ok());
  CHECK(measured->meta.at("device") == "rehearsal");
  CHECK(measured->meta.at("time_scale") == "4");
  const Run compared = test::tandem({"compare", run, "--json"}, -1, 60);
  REQUIRE_MESSAGE(compared.code == 0, compared.out << compared.err);
  const auto c = compared.json();
  CHECK(c["joined_ops"] > 100);
  CHECK(c["peak_memory_error"] == 0);
  CHECK(std::abs(c["replay_error_rel"].get<double>()) <= 0.1);
  // Durations are those of the prediction, so that only starts can differ.
  CHECK(c["median_compute_error"] < 0.01);

  // A prediction of the GPUs is not one of the rehearsal: neither is compared with the other.
  REQUIRE(test::tandem({"simulate", job, "-o", run}).code == 0);
  const Run other = test::tandem({"compare", run, "--json"}, -1, 60);
  CHECK(other.code == 3);
  CHECK(code_of(other) == "E-CLI-011");
}

TEST_CASE(
    "rehearsal: experts, ZeRO, context parallel and two copies run; counts of rows are balanced") {
  for (const char* parallel :
       {"model: mixtral-tiny\nparallel: {pp: 2, dp: 2, ep: 2}\nschedule: zb_h1\n",
        "model: deepseek-tiny\nparallel: {tp: 2, dp: 4, ep: 2, etp: 2, sequence_parallel: true}\n",
        "model: llama-tiny\nparallel: {cp: 2, dp: 2, zero: 3}\n",
        "model: llama-tiny\nparallel: {pp: 4}\nschedule: dualpipe\n"}) {
    CAPTURE(parallel);
    TempDir folder;
    const std::string job = folder / "job.yaml", run = folder / "run";
    std::ofstream(job) << "tandem: 1\n"
                       << parallel
                       << "training: {micro_batch: 1, global_batch: 8, steps: 1}\n"
                          "output: {ranks: all}\n";
    const Run r = rehearse({job, "-o", run, "--json"});
    REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
    const Run compared = test::tandem({"compare", run, "--json"}, -1, 60);
    REQUIRE_MESSAGE(compared.code == 0, compared.out << compared.err);
    CHECK(compared.json()["peak_memory_error"] == 0);
  }
}

TEST_CASE("rehearsal: the program alone is enough, without the executor's library") {
  TempDir folder;
  fs::copy_file(TANDEM_PROGRAM, folder / "tandem");
  const std::string command = (folder / "tandem") +
                              " execute --device rehearsal " TANDEM_SOURCE_DIR
                              "/scenarios/learn/05_1f1b.yaml -o " +
                              (folder / "run") + " > " + (folder / "out") + " 2>&1";
  const int status = std::system(command.c_str());
  CHECK_MESSAGE(WEXITSTATUS(status) == 0, slurp(folder / "out"));
  CHECK(slurp(folder / "out").find("rehearsal against its prediction") != std::string::npos);
  CHECK(slurp(folder / "out").find("losses") == std::string::npos);
  CHECK(fs::exists(folder / "run/rehearsal.json"));
}

TEST_CASE(
    "rehearsal: what needs values, or other durations, is refused before anything is written") {
  TempDir folder;
  const std::string run = folder / "run", scenario = "scenarios/learn/05_1f1b.yaml";
  const auto refused = [&](std::vector<std::string> more, int exit_code, const std::string& code) {
    more.insert(more.begin(), {scenario, "-o", run, "--json"});
    const Run r = rehearse(more);
    CHECK_MESSAGE(r.code == exit_code, r.out << r.err);
    CHECK(code_of(r) == code);
    CHECK(!fs::exists(run));
  };
  refused({"--verify"}, 4, "E-EXEC-062");
  refused({"--check-replicas", "1"}, 4, "E-EXEC-062");
  refused({"--resume", "nowhere"}, 4, "E-EXEC-062");
  refused({"--set", "training.evaluation.every=1"}, 4, "E-EXEC-062");
  refused({"--set", "training.metrics.every=1"}, 4, "E-EXEC-062");
  refused({"--set", "training.checkpoint.directory=" + (folder / "c")}, 4, "E-EXEC-062");
  refused({"--time-scale", "1e9"}, 3, "E-EXEC-061");
  refused({"--ranks", "3"}, 2, "E-EXEC-018");
  const Run cpu = test::tandem(
      {"execute", scenario, "--device", "cpu", "--time-scale", "2", "-o", run, "--json"}, -1, 20);
  CHECK(cpu.code == 2);
  CHECK(code_of(cpu) == "E-CLI-004");
}

TEST_CASE("rehearsal: the durations are a file of the run; `run` rehearses and reports too") {
  TempDir folder;
  const std::string run = folder / "run";
  const Run r = rehearse({"scenarios/learn/05_1f1b.yaml", "-o", run, "--json"});
  REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
  const std::string text = slurp(run + "/rehearsal.json");
  const auto table = nlohmann::json::parse(text);
  CHECK(table["format"] == "tandem-rehearsal");
  CHECK(table["durations_ns"].size() == 2);
  CHECK(table["table_of_rank"] == nlohmann::json::array({0, 1}));
  const auto manifest = nlohmann::json::parse(slurp(run + "/manifest.json"));
  CHECK(manifest["files"].contains("rehearsal.json"));
  CHECK(manifest["files"].contains("predicted.pftrace"));
  const Run all = test::tandem({"run", "scenarios/learn/05_1f1b.yaml", "--set",
                                "execute.device=rehearsal", "-o", folder / "all", "--json"},
                               -1, 60);
  REQUIRE_MESSAGE(all.code == 0, all.out << all.err);
  CHECK(all.json()["calibration"]["kernels_measured"] == 0);
  CHECK(all.json()["rehearsal"]["predicted_s"] > 0);
  CHECK(fs::exists(folder / "all/report.html"));
}

TEST_CASE("rehearsal: a killed rank, a stopped rank, Ctrl-C, and a scale beyond the timeout") {
  // Ops of about a second, so that every wait is a long one.
  const std::vector<std::string> slow = {"--time-scale", "3000", "--set", "execute.timeout=3 s"};
  {
    TempDir folder;
    Rehearsing run(folder, slow);
    const std::vector<pid_t> ranks = run.ranks();
    REQUIRE(ranks.size() == 2);
    const auto start = Timer::now();
    ::kill(ranks[1], SIGKILL);
    CHECK(run.wait(30) == 6);
    CHECK(since(start) < 8);
    CHECK(run.messages().find("E-EXEC-002") != std::string::npos);
    CHECK(run.messages().find("rank 1, step ") != std::string::npos);
    for (pid_t pid : ranks) CHECK(gone(pid));
  }
  {
    TempDir folder;
    Rehearsing run(folder, slow);
    const std::vector<pid_t> ranks = run.ranks();
    const auto start = Timer::now();
    ::kill(ranks[1], SIGSTOP);
    CHECK(run.wait(30) == 6);
    CHECK(since(start) < 3 + 8);
    CHECK(run.messages().find("rank 1") != std::string::npos);
    for (pid_t pid : ranks) CHECK(gone(pid));
  }
  {
    TempDir folder;
    Rehearsing run(folder, slow);
    const std::vector<pid_t> ranks = run.ranks();
    const auto start = Timer::now();
    ::kill(run.pid(), SIGINT);
    CHECK(run.wait(30) == 130);
    CHECK(since(start) < 8);
    for (pid_t pid : ranks) CHECK(gone(pid));
  }
  {
    TempDir folder;
    Rehearsing run(folder, {"--time-scale", "1e6", "--set", "execute.timeout=2 s"});
    CHECK(run.wait(60) == 6);
    CHECK(run.messages().find("E-EXEC-042") != std::string::npos);
  }
}
