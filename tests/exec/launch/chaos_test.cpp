// Goal    suite 14 and 15: a rank killed at any boundary of any communication is named at once,
// with
//         its step; one that exits, fails, stops or is slow gets the verdict of its kind; nothing
//         is left. Method: a real plan (tp 2, pp 2), real transport, recorder, watchdog and
//         launcher, no kernels (plan_child.cpp); the fault is addressed by rank, op, phase and
//         step.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "common/base/file.h"
#include "common/plan/build.h"
#include "common/plan/print.h"
#include "common/plan/training.h"
#include "common/scenario/read.h"
#include "exec/launch/launcher.h"
#include "exec/transport/wiring.h"

using namespace tandem;
using namespace tandem::exec;
namespace fs = std::filesystem;

namespace {

constexpr double kTimeout = 3;
constexpr int kSteps = 2;

struct Fixture {
  Plan plan;
  std::string folder;
  TrainingConfig config;

  Fixture() {
    const Result<Scenario> scenario = read_scenario_text(
        "chaos.yaml",
        "tandem: 1\nmodel: {preset: gpt-tiny, layers: 2}\ntraining: {global_batch: 2, micro_batch: "
        "1, sequence: 8}\nparallel: {tp: 2, pp: 2, dp: 1}\nschedule: 1f1b\n");
    REQUIRE_MESSAGE(scenario.ok(), to_text(scenario.error().diagnostics));
    Result<Plan> built = build_plan(*scenario);
    REQUIRE_MESSAGE(built.ok(), to_text(built.error().diagnostics));
    plan = std::move(*built);
    std::string name = (fs::temp_directory_path() / "tandem_chaos_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    folder = name;
    const ModelSpec& m = scenario->model;
    config.layers = m.layers;
    config.hidden = m.hidden;
    config.heads = m.heads;
    config.ffn_hidden = m.ffn_hidden;
    config.vocab = m.vocab;
    config.max_sequence = m.max_sequence;
    config.sequence = scenario->training.sequence;
    config.global_batch = scenario->training.global_batch;
    config.micro_batch = scenario->training.micro_batch;
    config.steps = kSteps;
    config.warmup_steps = 0;
    config.timeout_s = kTimeout;
    REQUIRE(write_file_atomic(folder + "/plan.txt", print(plan)).ok());
    REQUIRE(write_file_atomic(folder + "/training.json", to_json(config)).ok());
    REQUIRE(make_directories(folder + "/ranks").ok());
  }
  ~Fixture() {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
  [[nodiscard]] int world() const { return plan.header.mesh.world(); }

  struct Ended {
    LaunchOutcome outcome;
    int steps_of_rank_0 = 0;
    double wall_s = 0;
  };
  // A run with this fault; empty: none.
  Ended run(const std::string& fault) {
    if (fault.empty())
      ::unsetenv("TANDEM_TEST_FAULT");
    else
      ::setenv("TANDEM_TEST_FAULT", fault.c_str(), 1);
    LaunchOptions options;
    options.program = TANDEM_PLAN_CHILD;
    options.arguments = {"child", "__rank"};
    options.options = {"--late-s", fmt::format("{}", kTimeout), "--version", "test"};
    options.run_dir = folder;
    options.version = "test";
    options.plan_id = plan_id(plan);
    options.world = world();
    options.timeout_s = options.late_s = kTimeout;
    options.data.resize(static_cast<std::size_t>(world()));
    AlgorithmSetting setting;
    setting.deterministic = config.deterministic;
    for (const Wire& wire : wires_of(plan, setting)) {
      int ends[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
      options.data[wire.a.index()].push_back(ends[0]);
      options.data[wire.b.index()].push_back(ends[1]);
    }
    Ended out;
    LaunchSink sink;
    sink.progress = [&](int rank, const Report&) { out.steps_of_rank_0 += rank == 0; };
    const auto start = std::chrono::steady_clock::now();
    Result<LaunchOutcome> outcome = launch(std::move(options), sink);
    out.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    REQUIRE(outcome.ok());
    out.outcome = std::move(*outcome);
    CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);  // no child is left
    return out;
  }
  // Communications of a rank, in the order of its program.
  [[nodiscard]] std::vector<OpId> communications(int rank) const {
    std::vector<OpId> out;
    for (const Op& op : plan.ops_of(plan.program_of(Rank{rank})))
      if (is_communication(op.kind)) out.emplace_back(&op - plan.ops.data());
    return out;
  }
};

}  // namespace

TEST_CASE("chaos: without a fault the messages of two steps go through") {
  Fixture f;
  REQUIRE(f.world() == 4);
  const Fixture::Ended end = f.run("");
  for (const RankEnd& rank : end.outcome.ranks)
    for (const std::string& line : rank.last_lines) MESSAGE(line);
  CHECK(!end.outcome.failure);
  CHECK(end.steps_of_rank_0 == kSteps);
}

TEST_CASE("chaos: killed at 20 boundaries of each of 4 ranks, the victim is named") {
  Fixture f;
  double slowest = 0;
  for (int rank = 0; rank < f.world(); ++rank) {
    const std::vector<OpId> ops = f.communications(rank);
    for (int boundary = 0; boundary < 20; ++boundary) {
      const OpId op = ops[static_cast<std::size_t>(boundary) * ops.size() / 20];
      const int step = boundary % kSteps;
      const std::string fault = fmt::format("kill@{}:{}:{}:{}", rank, op.value,
                                            boundary % 3 == 0 ? "after" : "before", step);
      CAPTURE(fault);
      const Fixture::Ended end = f.run(fault);
      REQUIRE(end.outcome.culprit);
      CHECK(end.outcome.culprit->rank == rank);
      CHECK(name_of(end.outcome.culprit->cause) == name_of(Cause::killed));
      CHECK(end.outcome.culprit->step == step);
      CHECK(end.outcome.culprit->op >= 0);
      CHECK(end.outcome.failure == Failure::peer_lost);
      CHECK(end.wall_s < kTimeout);
      slowest = std::max(slowest, end.outcome.stop_s);
    }
  }
  MESSAGE("80 kills; the slowest run ended " << slowest << " s after the fault");
}

TEST_CASE("chaos: other ends of a rank") {
  Fixture f;
  const int victim = 2;
  const OpId op = f.communications(victim)[3];
  const auto at = [&](const char* action) {
    return fmt::format("{}@{}:{}:before:1", action, victim, op.value);
  };
  SUBCASE("exit code 5 without a word") {
    const auto end = f.run(at("exit"));
    CHECK(end.outcome.culprit->rank == victim);
    CHECK(end.outcome.culprit->cause == Cause::failed);
    CHECK(end.outcome.failure == Failure::execution);
    CHECK(end.wall_s < kTimeout);
  }
  SUBCASE("an error of its own") {
    const auto end = f.run(at("fail"));
    CHECK(end.outcome.culprit->rank == victim);
    CHECK(end.outcome.culprit->cause == Cause::failed);
    CHECK(end.outcome.culprit->code == "E-EXEC-048");
    CHECK(end.outcome.culprit->step == 1);
    CHECK(end.outcome.culprit->op >= 0);
    const Result<std::string> told = read_file(f.folder + "/ranks/2.json", 1 << 16);
    REQUIRE(told.ok());
    CHECK(told->find("E-EXEC-048") != std::string::npos);
  }
  SUBCASE("stopped for good") {
    const auto end = f.run(at("stop"));
    CHECK(end.outcome.culprit->rank == victim);
    CHECK(end.outcome.culprit->cause == Cause::stopped);
    CHECK(end.wall_s < kTimeout + 5);
    CHECK(end.outcome.culprit->step == 1);
  }
  SUBCASE("slow, but within the timeout: it just finishes") {
    const auto end = f.run(at("delay800"));
    CHECK(!end.outcome.failure);
    CHECK(end.wall_s > 0.8);
  }
  SUBCASE("slower than the timeout: the others wait in vain, and its own op is late") {
    const auto end = f.run(at("delay60000"));
    REQUIRE(end.outcome.culprit);
    CHECK(end.outcome.failure == Failure::peer_lost);
    CHECK(end.wall_s < kTimeout + 5);
  }
}
