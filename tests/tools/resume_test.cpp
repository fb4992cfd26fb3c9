// Goal    training that resumes through the command line: on the same mesh bit by bit what an
//         uninterrupted run gives, on other meshes the same losses, and never a file overwritten.
// Method  real processes. Equality of all parameters and moments is that of the SHA-256 of every
//         shard of two checkpoints of one step; of losses and norms, that of metrics.jsonl.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/tools/program.h"

using namespace tandem::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

struct Training {
  const TempDir& folder;
  std::string scenario;
  // Steps done in all, the folder of checkpoints, and what else the command line says.
  [[nodiscard]] Run run(int steps, const std::string& dir,
                        const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {"execute", scenario,
                                      "--json",  "--force",
                                      "-o",      folder / ("run-" + dir),
                                      "--set",   "execute.warmup_steps=0",
                                      "--set",   fmt::format("training.steps={}", steps),
                                      "--set",   "training.checkpoint.directory=" + (folder / dir)};
    words.insert(words.end(), more.begin(), more.end());
    return tandem::test::tandem(words, -1, 100);
  }
  [[nodiscard]] std::string checkpoint(const std::string& dir, int step) const {
    return (folder / dir) + fmt::format("/step-{:010}", step);
  }
  // Names and SHA-256 of the shards.
  [[nodiscard]] Json shards(const std::string& dir, int step) const {
    const std::string text = slurp(checkpoint(dir, step) + "/manifest.json");
    REQUIRE_MESSAGE(!text.empty(), checkpoint(dir, step));
    return Json::parse(text)["content"]["files"];
  }
  [[nodiscard]] Json state(const std::string& dir, int step) const {
    return Json::parse(slurp(checkpoint(dir, step) + "/manifest.json"))["content"]["state"];
  }
  // Values of every step, as the run has written them.
  [[nodiscard]] std::vector<Json> metrics(const std::string& dir) const {
    std::vector<Json> out;
    std::ifstream in(folder / ("run-" + dir) + "/metrics.jsonl");
    for (std::string line; std::getline(in, line);) out.push_back(Json::parse(line));
    return out;
  }
};

void check_bitwise(const std::string& scenario, const std::vector<std::string>& sets) {
  CAPTURE(scenario);
  const TempDir folder;
  const Training t{folder, scenario};
  const Run whole = t.run(10, "whole", sets), first = t.run(5, "parts", sets);
  REQUIRE_MESSAGE(whole.code == 0, whole.out);
  REQUIRE_MESSAGE(first.code == 0, first.out);
  std::vector<std::string> more = sets;
  more.emplace_back("--resume");
  const Run second = t.run(10, "parts", more);
  REQUIRE_MESSAGE(second.code == 0, second.out);
  CHECK(second.json()["first_step"] == 5);
  CHECK(second.json()["losses"].size() == 5);
  CHECK(t.shards("parts", 10) == t.shards("whole", 10));
  CHECK(t.shards("parts", 10) != t.shards("parts", 5));
  CHECK(t.state("parts", 10) == t.state("whole", 10));
  const auto a = t.metrics("whole"), b = t.metrics("parts");
  REQUIRE(a.size() == 10);
  REQUIRE(b.size() == 10);
  for (std::size_t k = 0; k < 10; ++k)
    for (const char* key : {"step", "loss", "perplexity", "spike_ratio", "grad_norm", "clip_coef",
                            "lr", "tokens_seen"})
      CHECK(a[k][key] == b[k][key]);
}

// Steps 3 to 5 on another mesh have the losses of a run that was not cut.
template <class Lines>
void check_resumed(const Training& t, const std::string& dir, std::vector<std::string> words,
                   const Lines& expected) {
  words.insert(words.end(), {"--resume", t.checkpoint("cut", 2)});
  const Run run = t.run(5, dir, words);
  REQUIRE_MESSAGE(run.code == 0, run.out);
  const auto losses = run.json()["losses"];
  REQUIRE(losses.size() == 3);
  for (std::size_t k = 0; k < 3; ++k) {
    const double loss = expected[2 + k]["loss"];
    CHECK(std::abs(losses[k].template get<double>() - loss) <= 1e-10 * loss);
  }
}

}  // namespace

TEST_CASE("resume: 5 + 5 steps are 10 steps, bit by bit") {
  const std::vector<std::string> cosine = {"--set", "training.optimizer.decay=cosine",
                                           "--set", "training.optimizer.decay_steps=10",
                                           "--set", "training.optimizer.warmup_steps=3"};
  check_bitwise("scenarios/learn/01_one_rank.yaml", cosine);
  check_bitwise("scenarios/learn/02_data_parallel.yaml", {});
  check_bitwise("scenarios/learn/05_1f1b.yaml",
                {"--set", "parallel.tp=2", "--set", "training.precision=fp64"});
  check_bitwise("scenarios/learn/03_tensor_parallel.yaml", {"--set", "model.preset=llama-tiny"});
}

TEST_CASE("resume on other meshes: the losses of an uninterrupted run") {
  const TempDir folder;
  const Training t{folder, "scenarios/learn/01_one_rank.yaml"};
  const auto mesh = [](int tp, int pp, int dp) {
    return std::vector<std::string>{
        "--set", fmt::format("parallel.tp={}", tp), "--set", fmt::format("parallel.pp={}", pp),
        "--set", fmt::format("parallel.dp={}", dp), "--set", "training.precision=fp64",
        "--set", "training.global_batch=8"};
  };
  REQUIRE(t.run(5, "whole", mesh(1, 1, 1)).code == 0);
  REQUIRE(t.run(2, "cut", mesh(2, 2, 1)).code == 0);
  const auto expected = t.metrics("whole");
  for (const auto& m :
       {mesh(1, 1, 2), mesh(1, 4, 1), mesh(4, 1, 1), mesh(1, 1, 1), mesh(2, 2, 2)}) {
    CAPTURE(m[1] + " " + m[3] + " " + m[5]);
    const std::string dir = "on " + m[1] + m[3] + m[5];
    check_resumed(t, dir, m, expected);
    CHECK(fs::exists(t.checkpoint(dir, 5) + "/manifest.json"));
  }
}

TEST_CASE("resume on other expert meshes: the losses of an uninterrupted run") {
  const TempDir folder;
  const Training t{folder, "scenarios/learn/13_experts.yaml"};
  const auto mesh = [](int tp, int dp, int ep, int etp) {
    return std::vector<std::string>{
        "--set", fmt::format("parallel.tp={}", tp), "--set", fmt::format("parallel.dp={}", dp),
        "--set", fmt::format("parallel.ep={}", ep), "--set", fmt::format("parallel.etp={}", etp),
        "--set", "training.precision=fp64",         "--set", "training.global_batch=8"};
  };
  REQUIRE(t.run(5, "whole", mesh(1, 1, 1, 1)).code == 0);
  REQUIRE(t.run(2, "cut", mesh(2, 2, 2, 2)).code == 0);
  const auto expected = t.metrics("whole");
  for (const auto& m : {mesh(1, 4, 1, 4), mesh(1, 2, 2, 1), mesh(1, 1, 1, 1)}) {
    CAPTURE(m[1] + " " + m[3] + " " + m[5] + " " + m[7]);
    check_resumed(t, "on " + m[1] + m[3] + m[5] + m[7], m, expected);
  }
}

TEST_CASE("resume: what is refused, and that nothing is touched then") {
  const TempDir folder;
  const Training t{folder, "scenarios/learn/02_data_parallel.yaml"};
  const auto code_of = [](const Run& r) {
    return r.json()["errors"].empty() ? std::string("none")
                                      : r.json()["errors"][0]["code"].get<std::string>();
  };
  Run r = t.run(4, "ck", {"--resume"});
  CHECK(r.code == 3);
  CHECK(code_of(r) == "E-CKPT-002");
  r = t.run(4, "ck", {"--set", "training.checkpoint.every=2"});
  REQUIRE_MESSAGE(r.code == 0, r.out);
  CHECK(r.json()["checkpoint_s"] > 0);
  const Json before = t.shards("ck", 4);
  const std::string manifest = slurp(folder / "run-ck/manifest.json");
  const auto refused = [&](const Run& run, int code, const std::string& diagnostic) {
    CHECK_MESSAGE(run.code == code, run.out);
    CHECK(code_of(run) == diagnostic);
    CHECK(t.shards("ck", 4) == before);
    CHECK(slurp(folder / "run-ck/manifest.json") == manifest);
  };
  refused(t.run(4, "ck"), 2, "E-CKPT-001");
  refused(t.run(4, "ck", {"--resume"}), 2, "E-CKPT-008");
  refused(t.run(6, "ck", {"--resume", t.checkpoint("ck", 2)}), 2, "E-CKPT-009");
  refused(t.run(6, "ck", {"--resume", "--set", "model.layers=2"}), 3, "E-CKPT-005");
  refused(t.run(6, "ck", {"--resume", "--set", "training.precision=fp64"}), 3, "E-CKPT-006");
  refused(t.run(6, "ck", {"--resume", "--seed", "99"}), 3, "E-CKPT-007");
  refused(t.run(6, "ck", {"--resume", folder / "nothing"}), 3, "E-CKPT-002");
  refused(t.run(6, "ck", {"--resume", "--verify"}), 2, "E-CLI-005");
  // The older one, into a folder of its own.
  r = t.run(6, "other", {"--resume", t.checkpoint("ck", 2)});
  CHECK_MESSAGE(r.code == 0, r.out);
  CHECK(r.json()["first_step"] == 2);
  // A folder of checkpoints stands for its newest.
  r = t.run(6, "third", {"--resume", (folder / "ck") + "/"});
  CHECK_MESSAGE(r.code == 0, r.out);
  CHECK(r.json()["first_step"] == 4);
  // A shard that is cut: named before any rank starts.
  const std::string shard = t.checkpoint("ck", 4) + "/rank-0000.shard";
  fs::resize_file(shard, fs::file_size(shard) - 1);
  r = t.run(6, "ck", {"--resume"});
  CHECK(r.code == 3);
  CHECK(code_of(r) == "E-CKPT-004");
  CHECK(r.json()["errors"][0]["file"].get<std::string>().find("rank-0000.shard") !=
        std::string::npos);
  // tandem run saves too, and refuses too.
  const Run again =
      tandem::test::tandem({"run", t.scenario, "--json", "-o", folder / "run", "--set",
                            "training.checkpoint.directory=" + (folder / "ck")},
                           -1, 60);
  CHECK(again.code == 2);
  CHECK(code_of(again) == "E-CKPT-001");
}

TEST_CASE("no room for a shard: exit 7, its name, and the checkpoint before stays") {
  const TempDir folder;
  const Training t{folder, "scenarios/learn/01_one_rank.yaml"};
  REQUIRE(t.run(2, "ck").code == 0);
  const Json before = t.shards("ck", 2);
  // 4,000 blocks of 512 bytes: less than the 5 MB that a checkpoint of gpt-tiny takes.
  const std::string command =
      "cd " TANDEM_SOURCE_DIR " && ulimit -f 4000 && " TANDEM_PROGRAM " execute " + t.scenario +
      " --resume -o " + (folder / "run") +
      " --set execute.warmup_steps=0 --set training.steps=4 --set training.checkpoint.directory=" +
      (folder / "ck") + " > " + (folder / "out") + " 2>&1";
  const int status = std::system(command.c_str());
  CHECK(WEXITSTATUS(status) == 7);
  const std::string said = slurp(folder / "out");
  CHECK_MESSAGE(said.find("rank-0000.shard: error E-IO-010") != std::string::npos, said);
  CHECK(t.shards("ck", 2) == before);
  CHECK_FALSE(fs::exists(t.checkpoint("ck", 4)));
  CHECK(t.run(4, "ck", {"--resume"}).code == 0);
}

namespace {

// Of the newest checkpoint; 0: there is none.
int newest_step(const std::string& dir) {
  int newest = 0;
  std::error_code failed;
  for (fs::directory_iterator it(dir, failed), end; !failed && it != end; it.increment(failed)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("step-") && !name.ends_with(".partial"))
      newest = std::max(newest, std::stoi(name.substr(5)));
  }
  return newest;
}

}  // namespace

TEST_CASE("a run that is killed while it saves after every step goes on to the same end") {
  const TempDir folder;
  const Training t{folder, "scenarios/learn/05_1f1b.yaml"};
  constexpr int kSteps = 60, kKills = 6;
  REQUIRE(t.run(kSteps, "whole").code == 0);
  const auto go_on = [&] {
    std::vector<std::string> words = {"--set", "training.checkpoint.every=1"};
    if (newest_step(folder / "parts") > 0) words.emplace_back("--resume");
    return t.run(kSteps, "parts", words);
  };
  for (int kill = 0; kill < kKills; ++kill) {
    const int start = newest_step(folder / "parts");
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::setpgid(0, 0);
      ::_exit(go_on().code);
    }
    ::setpgid(child, child);
    // Some steps on, and then at another moment of a step or save each time.
    for (int wait = 0; wait < 60'000 && newest_step(folder / "parts") < start + 3; ++wait)
      ::usleep(1000);
    REQUIRE(newest_step(folder / "parts") >= start + 3);
    ::usleep(static_cast<useconds_t>(3000 * kill));
    ::kill(-child, SIGKILL);  // the launcher; its ranks end with it
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    ::usleep(300'000);
  }
  const Run last = go_on();
  REQUIRE_MESSAGE(last.code == 0, last.out);
  CHECK(last.json()["first_step"] >= 3 * kKills);
  CHECK(t.shards("parts", kSteps) == t.shards("whole", kSteps));
  CHECK(t.state("parts", kSteps) == t.state("whole", kSteps));
  for (const auto& entry : fs::directory_iterator(folder / "parts"))
    CHECK(entry.path().extension() != ".partial");
}
