// Goal    `tandem execute` end to end: real processes, real kernels, real messages.
// Method  small scenarios with --verify against autograd in one process (fp64: 1e-10); then faults
//         from outside: a killed, a stopped and a crashed rank, Ctrl-C.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>

#include "common/plan/parse.h"
#include "common/timeline/check_timeline.h"
#include "common/timeline/perfetto.h"
#include "tests/tools/background.h"

using namespace tandem;
using namespace tandem::test;
namespace fs = std::filesystem;

namespace {

// Other processes may keep the cores busy.
Run execute(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "execute");
  return test::tandem(arguments, -1, 60);
}

// A long run of two ranks.
class Training : public Background {
 public:
  Training(const TempDir& folder, std::vector<std::string> more)
      : Background(folder, with(std::move(more))) {}
  // Once rank 0 has told of a step.
  [[nodiscard]] std::vector<pid_t> ranks() const {
    return ranks_when([&] { return !slurp(folder() + "/metrics.jsonl").empty(); });
  }

 private:
  static std::vector<std::string> with(std::vector<std::string> more) {
    more.insert(more.begin(), {"--set", "training.steps=100000"});
    return more;
  }
};

}  // namespace

TEST_CASE("execute --verify: every layout equals one process with autograd") {
  for (const char* scenario :
       {"01_one_rank", "02_data_parallel", "03_tensor_parallel", "04_gpipe", "05_1f1b"}) {
    CAPTURE(std::string(scenario));
    TempDir folder;
    const std::string run = folder / "run";
    const Run r = execute({"scenarios/learn/" + std::string(scenario) + ".yaml", "--verify",
                           "--set", "training.precision=fp64", "-o", run, "--json"});
    REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
    const auto json = r.json();
    CHECK(json["verify"]["max_rel_loss"] <= 1e-10);
    CHECK(json["verify"]["max_rel_grad"] <= 1e-10);
    CHECK(json["verify"]["replicas_equal"] == true);
    CHECK(json["losses"].size() == 3);  // no warm-up
    CHECK(json["iteration_s"] > 0);
    CHECK(json["peak_bytes"].size() == json["ranks"]);
  }
}

// bf16 rounds so much that some of these choices differ everywhere.
TEST_CASE("execute --verify: choices of experts that are near ties are taken over, and told") {
  TempDir folder;
  const std::string job = folder / "experts.yaml";
  std::ofstream(job) << "tandem: 1\nseed: 1234\nmodel: mixtral-tiny\n"
                        "training: {init: test, micro_batch: 2, global_batch: 8, steps: 2, "
                        "data: {kind: random}, precision: bf16, evaluation: {every: 2}}\n"
                        "parallel: {tp: 2, ep: 2}\n"
                        "execute: {warmup_steps: 0}\n";
  const Run r = execute({job, "--verify", "-o", folder / "a", "--json"});
  REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
  const auto verify = r.json()["verify"];
  const auto& choices = verify["choices"];
  CHECK(choices["routings"] == 3 * 8 * 8 * 32);  // steps and evaluation, layers, batch, sequence
  CHECK(choices["replayed"] == true);
  CHECK(choices["differed"] > 0);
  CHECK(choices["judged"]["differed"] > 0);
  CHECK(choices["judged"]["largest_gap"] <= choices["judged"]["allowed_gap"]);
  CHECK(choices["judged"]["wrong"] == 0);
  CHECK(verify["max_abs_bias"] == 0);  // softmax routers have none
  const auto file = nlohmann::json::parse(slurp(folder / "a" + "/verify.json"));
  CHECK(file["choices"] == choices);
  const Run text = execute({job, "--verify", "-o", folder / "b"});
  CHECK(text.code == 0);
  const std::string told = "verify: the reference took " +
                           std::to_string(choices["differed"].get<int>()) + " of 6144 choices";
  CHECK_MESSAGE((text.out + text.err).find(told) != std::string::npos, text.out << text.err);
}

// Golden C5 of models.md 7.2: the rows that rank 0 really hands over, as an independent prototype
// of that job has them. What a plan says of it: tests/common/plan/expert_tp_test.cpp.
TEST_CASE("execute: deepseek-tiny on tp 2, dp 4, ep 2, etp 2 moves the rows of golden C5") {
  TempDir folder;
  const std::string job = folder / "c5.yaml", run = folder / "run";
  std::ofstream(job) << "tandem: 1\nseed: 1234\nmodel: deepseek-tiny\n"
                        "training: {init: test, micro_batch: 1, global_batch: 8, steps: 1, "
                        "data: {kind: random}}\n"
                        "parallel: {tp: 2, dp: 4, ep: 2, etp: 2, sequence_parallel: true}\n"
                        "execute: {warmup_steps: 0}\n";
  const Run r = execute({job, "-o", run, "--json"});
  REQUIRE_MESSAGE(r.code == 0, r.out << r.err);
  std::map<std::string, std::int64_t> handed;
  const auto rank = nlohmann::json::parse(slurp(run + "/ranks/0.json"));
  for (const auto& row : rank["communication"]) {
    handed[row["tag"].get<std::string>() + " " + row["kind"].get<std::string>()] = row["bytes_in"];
    CHECK(row["bytes_sent"] == row["bytes_sent_by_law"]);
  }
  const std::int64_t arrived = 126'208, all = 248'064;  // rows over ep; of both etp members
  CHECK(handed["cnt all_to_all"] == 14 * 32);
  CHECK(handed["disp all_to_all"] == 14 * 8192 + arrived);  // F, I
  CHECK(handed["comb all_to_all"] == arrived + 14 * 8192);
  CHECK(handed["etp.in all_gather"] == 14 * 32 + arrived);  // counts, rows
  CHECK(handed["etp.in reduce_scatter"] == all);
  CHECK(handed["etp.out reduce_scatter"] == all);
  CHECK(handed["etp.out all_gather"] == arrived);
  CHECK(handed["grad.exp all_reduce"] == 344'064);
}

TEST_CASE("execute: files of a run, and a measured timeline that fits its plan") {
  TempDir folder;
  const std::string run = folder / "run";
  const Run r = execute({"scenarios/learn/05_1f1b.yaml", "-o", run});
  REQUIRE_MESSAGE(r.code == 0, r.err);
  for (const char* name : {"manifest.json", "scenario.yaml", "plan.txt", "training.json",
                           "metrics.jsonl", "measured.pftrace", "summary.json", "ranks/0.json",
                           "ranks/1.json", "ranks/0.ring", "ranks/1.ring", "ranks/1.err"})
    CHECK_MESSAGE(fs::exists(run + "/" + name), name);
  const Result<Plan> plan = parse_plan(slurp(run + "/plan.txt"), "plan.txt");
  REQUIRE(plan.ok());
  const Result<Timeline> timeline = decode_perfetto(slurp(run + "/measured.pftrace"), "measured");
  REQUIRE(timeline.ok());
  CHECK(check_timeline(*timeline, *plan, "measured").ok());
  CHECK(timeline->steps.size() == 3 * 2);  // the warm-up step is not in it
  CHECK(timeline->meta.at("kind") == "measured");
  const auto summary = nlohmann::json::parse(slurp(run + "/summary.json"));
  CHECK(summary["measured"]["losses"].size() == 4);
  // The same run again, into the same folder.
  CHECK(execute({"scenarios/learn/05_1f1b.yaml", "-o", run, "-q"}).code == 0);
}

TEST_CASE("execute: two runs give the same losses, bit by bit") {
  TempDir folder;
  nlohmann::json losses[2];
  for (int i = 0; i < 2; ++i) {
    const Run r = execute(
        {"scenarios/learn/03_tensor_parallel.yaml", "-o", folder / std::to_string(i), "--json"});
    REQUIRE(r.code == 0);
    losses[i] = r.json()["losses"];
  }
  CHECK(losses[0] == losses[1]);
}

TEST_CASE("execute: refusals before anything is written") {
  TempDir folder;
  const std::string run = folder / "run";
  const std::string file = "scenarios/learn/05_1f1b.yaml";
  const Run ranks = execute({file, "--ranks", "3", "-o", run});
  CHECK(ranks.code == 2);
  CHECK(ranks.err.find("E-EXEC-018") != std::string::npos);
  const Run device = execute({file, "--device", "cuda", "-o", run});
  CHECK(device.code == 5);
  CHECK(device.err.find("E-EXEC-017") != std::string::npos);
  CHECK(execute({file, "--set", "training.precision=fp16", "-o", run}).code == 4);
  CHECK(!fs::exists(run));
}

TEST_CASE("execute: a training text that is not there; a rank without a launcher") {
  TempDir folder;
  const Run text = execute({"scenarios/learn/05_1f1b.yaml", "-o", folder / "run", "--set",
                            "training.data.path=nothing.txt"});
  CHECK(text.code == 3);
  CHECK(text.err.find("E-EXEC-016") != std::string::npos);
  for (const std::vector<std::string>& words : {std::vector<std::string>{"__rank"},
                                                {"__rank", "run", "0", "--port", "99999"},
                                                {"__verify"}}) {
    const Run rank = test::tandem(words, -1, 60);
    CHECK(rank.code == 2);
    CHECK(rank.err.find("E-EXEC-013") != std::string::npos);
  }
}

TEST_CASE("execute: a loss that is not finite is the rank's own failure") {
  TempDir folder;
  const Run r = execute({"scenarios/learn/05_1f1b.yaml", "-o", folder / "run", "--set",
                         "training.optimizer.lr=1e30", "--set", "training.steps=20"});
  CHECK(r.code == 5);
  CHECK(r.err.find("E-EXEC-031") != std::string::npos);
  // Nobody takes it for a run that ended well.
  CHECK(slurp(folder / "run/manifest.json").find("\"complete\"") == std::string::npos);
}

TEST_CASE("execute: a killed rank is named at once, with its op") {
  TempDir folder;
  Training run(folder, {});
  const std::vector<pid_t> ranks = run.ranks();
  REQUIRE(ranks.size() == 2);
  const auto start = Timer::now();
  ::kill(ranks[1], SIGKILL);
  CHECK(run.wait(30) == 6);
  MESSAGE("ended " << since(start) << " s after the kill");
  CHECK(since(start) < 3);
  CHECK(run.messages().find("E-EXEC-002") != std::string::npos);
  CHECK(run.messages().find("rank 1, step ") != std::string::npos);
  CHECK(run.messages().find("SIGKILL") != std::string::npos);
  for (pid_t pid : ranks) CHECK(gone(pid));
}

// One step, and then an evaluation that takes hours.
const std::vector<std::string> kEvaluates = {"--set", "training.evaluation.every=2", "--set",
                                             "training.evaluation.batches=10000000"};

// Until rank 1 has ended ops behind those of two steps, by its flight recorder.
void wait_until_it_evaluates(const Training& run) {
  const Result<Plan> plan = parse_plan(slurp(run.folder() + "/plan.txt"), "plan.txt");
  REQUIRE(plan.ok());
  const std::uint64_t steps = 2 * std::uint64_t{plan->programs[1].num_ops};
  const auto start = Timer::now();
  for (std::uint64_t done = 0; done < steps + 50;) {
    REQUIRE(since(start) < 60);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::string ring = slurp(run.folder() + "/ranks/1.ring");
    if (ring.size() > 64) std::memcpy(&done, ring.data() + 56, sizeof done);
  }
}

TEST_CASE("execute: a rank that is killed while it evaluates is named, with its op") {
  TempDir folder;
  Training run(folder, kEvaluates);
  const std::vector<pid_t> ranks = run.ranks();
  REQUIRE(ranks.size() == 2);
  wait_until_it_evaluates(run);
  const auto start = Timer::now();
  ::kill(ranks[1], SIGKILL);
  CHECK(run.wait(30) == 6);
  CHECK(since(start) < 3);
  const std::string said = run.messages();
  CHECK_MESSAGE(said.find("E-EXEC-002") != std::string::npos, said);
  CHECK_MESSAGE(said.find("rank 1, step 1, op ") != std::string::npos, said);
  CHECK_MESSAGE(said.find("of the evaluation: op ") != std::string::npos, said);
  for (pid_t pid : ranks) CHECK(gone(pid));
}

TEST_CASE("execute: a rank that stops while it evaluates is named after the timeout") {
  TempDir folder;
  std::vector<std::string> words = kEvaluates;
  words.insert(words.end(), {"--set", "execute.timeout=3 s"});
  Training run(folder, words);
  const std::vector<pid_t> ranks = run.ranks();
  REQUIRE(ranks.size() == 2);
  wait_until_it_evaluates(run);
  std::this_thread::sleep_for(std::chrono::milliseconds(3500));  // it may last beyond the timeout
  const auto start = Timer::now();
  ::kill(ranks[1], SIGSTOP);
  CHECK(run.wait(30) == 6);
  CHECK(since(start) < 3 + 5);
  const std::string said = run.messages();
  // Its operation has run out of time, or its heartbeats: whichever the launcher sees first.
  CHECK_MESSAGE((said.find("E-EXEC-006") != std::string::npos ||
                 said.find("E-EXEC-009") != std::string::npos),
                said);
  CHECK_MESSAGE(said.find("rank 1") != std::string::npos, said);
  for (pid_t pid : ranks) CHECK(gone(pid));
}

TEST_CASE("execute: a crashed rank is an internal error") {
  TempDir folder;
  Training run(folder, {});
  const std::vector<pid_t> ranks = run.ranks();
  ::kill(ranks[0], SIGSEGV);
  CHECK(run.wait(30) == 70);
  CHECK(run.messages().find("E-EXEC-003") != std::string::npos);
  CHECK(run.messages().find("rank 0") != std::string::npos);
}

TEST_CASE("execute: a stopped rank is named after the timeout") {
  TempDir folder;
  Training run(folder, {"--set", "execute.timeout=3 s"});
  const std::vector<pid_t> ranks = run.ranks();
  const auto start = Timer::now();
  ::kill(ranks[1], SIGSTOP);
  CHECK(run.wait(30) == 6);
  MESSAGE("ended " << since(start) << " s after the stop");
  CHECK(since(start) < 3 + 5);
  CHECK(run.messages().find("E-EXEC-006") != std::string::npos);
  CHECK(run.messages().find("rank 1") != std::string::npos);
  for (pid_t pid : ranks) CHECK(gone(pid));
}

TEST_CASE("execute: a rank that is stopped for a moment just goes on") {
  TempDir folder;
  Training run(folder, {});
  const std::vector<pid_t> ranks = run.ranks();
  ::kill(ranks[1], SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  ::kill(ranks[1], SIGCONT);
  const auto lines = [&] {
    const std::string text = slurp(run.folder() + "/metrics.jsonl");
    return std::count(text.begin(), text.end(), '\n');
  };
  const auto before = lines();
  const auto start = Timer::now();
  while (lines() < before + 5 && since(start) < 20)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(lines() >= before + 5);
  ::kill(run.pid(), SIGTERM);
  CHECK(run.wait(30) == 143);
}

TEST_CASE("execute: Ctrl-C is 130, and the steps so far stay") {
  TempDir folder;
  Training run(folder, {});
  const std::vector<pid_t> ranks = run.ranks();
  const auto start = Timer::now();
  ::kill(run.pid(), SIGINT);
  CHECK(run.wait(30) == 130);
  CHECK(since(start) < 6);
  CHECK(!slurp(run.folder() + "/metrics.jsonl").empty());
  for (pid_t pid : ranks) CHECK(gone(pid));
}

TEST_CASE("execute: a program without its library says so in one message") {
  TempDir folder;
  fs::copy_file(TANDEM_PROGRAM, folder / "tandem");
  const std::string command = (folder / "tandem") +
                              " execute " TANDEM_SOURCE_DIR "/scenarios/learn/05_1f1b.yaml -o " +
                              (folder / "run") + " 2> " + (folder / "err");
  const int status = std::system(command.c_str());
  CHECK(WEXITSTATUS(status) == 5);
  CHECK(slurp(folder / "err").find("E-EXEC-060") != std::string::npos);
  CHECK(!fs::exists(folder / "run"));
}
