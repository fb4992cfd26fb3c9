// Goal    whatever one rank does, a run ends within its timeout + 5 s, names that rank, and leaves
//         no child. Method: real processes (test_child.cpp) under the real launcher.
#include "exec/launch/launcher.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>

using namespace tandem;
using namespace tandem::exec;
namespace fs = std::filesystem;

namespace {

// A folder of its own, gone afterwards.
struct RunFolder {
  std::string path;
  RunFolder() {
    std::string name = (fs::temp_directory_path() / "tandem_launch_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
    fs::create_directory(path + "/ranks");
  }
  ~RunFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  [[nodiscard]] std::string read(const std::string& name) const {
    std::ifstream in(path + "/ranks/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
};

struct Seen {
  std::vector<std::pair<int, std::string>> lines;
  std::vector<std::pair<int, Report>> progress;
};

LaunchOptions options_of(const RunFolder& run, int world, double timeout_s, const std::string& all,
                         int rank, const std::string& mode) {
  ::setenv("WORLD", std::to_string(world).c_str(), 1);
  ::setenv("TIMEOUT", std::to_string(timeout_s).c_str(), 1);
  LaunchOptions options;
  options.program = TANDEM_TEST_CHILD;
  options.arguments = {"child"};
  options.options = {all, std::to_string(rank), mode};
  options.run_dir = run.path;
  options.version = "test";
  options.plan_id = "beef";
  options.world = world;
  options.timeout_s = options.late_s = timeout_s;
  return options;
}

struct Ended {
  LaunchOutcome outcome;
  double wall_s = 0;
};

Ended run(const LaunchOptions& options, Seen* seen = nullptr) {
  LaunchSink sink;
  if (seen) {
    sink.line = [seen](int rank, bool, std::string_view line) {
      seen->lines.emplace_back(rank, line);
    };
    sink.progress = [seen](int rank, const Report& r) { seen->progress.emplace_back(rank, r); };
  }
  const auto start = std::chrono::steady_clock::now();
  Result<LaunchOutcome> outcome = launch(options, sink);
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  REQUIRE(outcome.ok());
  // No child is left, dead or alive.
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
  for (const RankEnd& end : outcome->ranks) CHECK(end.reaped);
  return {std::move(*outcome), wall.count()};
}

}  // namespace

TEST_CASE("launcher: a run that goes well, its progress and its logs") {
  RunFolder folder;
  Seen seen;
  const Ended end = run(options_of(folder, 3, 10, "chatty", -1, ""), &seen);
  CHECK(!end.outcome.failure);
  CHECK(end.outcome.faults.empty());
  CHECK(end.wall_s < 5);
  REQUIRE(seen.progress.size() == 6);
  for (const auto& [rank, report] : seen.progress) CHECK(report.loss == 2.5 - report.step);
  for (int rank = 0; rank < 3; ++rank) {
    CHECK(folder.read(std::to_string(rank) + ".out") == "step 0\nhalfstep 1\nhalf");
    CHECK(folder.read(std::to_string(rank) + ".err").empty());
  }
  // Whole lines only, of each rank in order.
  std::map<int, std::vector<std::string>> lines;
  for (const auto& [rank, line] : seen.lines) lines[rank].push_back(line);
  for (int rank = 0; rank < 3; ++rank)
    CHECK(lines[rank] == std::vector<std::string>{"step 0", "halfstep 1", "half"});
}

TEST_CASE("launcher: data descriptors reach the rank they are meant for") {
  RunFolder folder;
  LaunchOptions options = options_of(folder, 2, 10, "steps", -1, "");
  for (int rank = 0; rank < 2; ++rank)
    options.data.push_back(
        {::open("/dev/null", O_RDWR | O_CLOEXEC), ::open("/dev/null", O_RDWR | O_CLOEXEC)});
  const std::vector<int> mine = options.data[0];
  CHECK(!run(options).outcome.failure);
  for (int fd : mine) CHECK(::fcntl(fd, F_GETFD) == -1);  // the launcher has closed its copies
}

TEST_CASE("launcher: the first cause is named, with the exit class of its kind") {
  struct Case {
    const char* mode;
    Cause cause;
    Failure failure;
    int signal;
    double limit_s;  // from the start to the end; timeout 3 s
  };
  // The others wait in vain for the rank and stop when told to.
  const Case cases[] = {
      {"exit0", Cause::left, Failure::peer_lost, 0, 2},
      {"exit1", Cause::failed, Failure::execution, 0, 2},
      {"segv", Cause::crashed, Failure::internal, SIGSEGV, 2},
      {"kill", Cause::killed, Failure::peer_lost, SIGKILL, 2},
      {"fail", Cause::failed, Failure::execution, 0, 2},
      {"stop", Cause::stopped, Failure::peer_lost, SIGSTOP, 8},
      {"never", Cause::never_joined, Failure::peer_lost, 0, 8},
      {"wrongplan", Cause::peer_lost, Failure::peer_lost, 0, 8},
  };
  for (const Case& c : cases) {
    CAPTURE(std::string(c.mode));
    RunFolder folder;
    const Ended end = run(options_of(folder, 4, 3, "wait", 2, c.mode));
    REQUIRE(end.outcome.culprit);
    CHECK(end.outcome.culprit->rank == 2);
    CHECK(name_of(end.outcome.culprit->cause) == name_of(c.cause));
    CHECK(end.outcome.failure == c.failure);
    CHECK(end.outcome.culprit->signal == c.signal);
    CHECK(end.wall_s < c.limit_s);
    MESSAGE(std::string(c.mode) << " ended after " << end.wall_s << " s");
  }
}

TEST_CASE("launcher: a rank's own words are passed on") {
  RunFolder folder;
  const Ended end = run(options_of(folder, 2, 3, "wait", 1, "fail"));
  REQUIRE(end.outcome.culprit);
  const Error error = to_error(*end.outcome.culprit, 3, [](int) { return std::string("F mb=0"); });
  CHECK(error.failure == Failure::execution);
  CHECK(error.diagnostics[0].found == "rank 1, step 3, op 17 F mb=0: E-EXEC-031: loss = nan");
  RunFolder other;
  const Ended broken = run(options_of(other, 2, 3, "wait", 1, "exit1"));
  CHECK(to_error(*broken.outcome.culprit, 3).diagnostics[0].found ==
        "rank 1: something of mine broke");
  CHECK(broken.outcome.ranks[1].last_lines == std::vector<std::string>{"something of mine broke"});
}

TEST_CASE("launcher: a peer that reports the loss first is not the culprit") {
  RunFolder folder;
  // Rank 1 stops, the others report a lost peer after 0.5 s, long before the timeout.
  const Ended end = run(options_of(folder, 3, 10, "peer", 1, "stop"));
  REQUIRE(end.outcome.culprit);
  CHECK(end.outcome.culprit->rank == 1);
  CHECK(end.outcome.culprit->cause == Cause::stopped);
  CHECK(end.wall_s < 3);
}

TEST_CASE("launcher: a slow rank within its deadline just finishes") {
  RunFolder folder;
  CHECK(!run(options_of(folder, 3, 3, "steps", 1, "slow")).outcome.failure);
}

TEST_CASE("launcher: ranks that do not listen are killed after 4 s") {
  RunFolder folder;
  const Ended end = run(options_of(folder, 3, 5, "stubborn", 1, "exit1"));
  CHECK(end.outcome.culprit->rank == 1);
  CHECK(end.outcome.stop_s > 3.9);
  CHECK(end.outcome.stop_s < 5);
  CHECK(end.outcome.ranks[0].signal == SIGKILL);
}

TEST_CASE("launcher: Ctrl-C ends the run, a second one at once") {
  for (const bool twice : {false, true}) {
    RunFolder folder;
    const pid_t self = ::getpid();
    // A process, not a thread: the launcher forks.
    const pid_t sender = ::fork();
    if (sender == 0) {
      ::usleep(700'000);
      ::kill(self, SIGINT);
      ::usleep(300'000);
      if (twice) ::kill(self, SIGINT);
      ::_exit(0);
    }
    const auto start = std::chrono::steady_clock::now();
    LaunchOptions options = options_of(folder, 2, 20, "stubborn", -1, "");
    Result<LaunchOutcome> outcome = launch(options, {});
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    ::waitpid(sender, nullptr, 0);
    REQUIRE(outcome.ok());
    CHECK(outcome->failure == Failure::interrupted);
    CHECK(!outcome->culprit);
    CHECK(wall.count() < (twice ? 2.0 : 6.0));
    if (!twice) CHECK(wall.count() > 4.5);
  }
}

TEST_CASE("launcher: SIGTERM is 143") {
  RunFolder folder;
  const pid_t self = ::getpid(), sender = ::fork();
  if (sender == 0) {
    ::usleep(500'000);
    ::kill(self, SIGTERM);
    ::_exit(0);
  }
  Result<LaunchOutcome> outcome = launch(options_of(folder, 2, 20, "wait", -1, ""), {});
  ::waitpid(sender, nullptr, 0);
  REQUIRE(outcome.ok());
  CHECK(outcome->failure == Failure::terminated);
}

TEST_CASE("launcher: children die with the launcher") {
  RunFolder folder;
  int pids[2];
  REQUIRE(::pipe(pids) == 0);
  const pid_t launcher = ::fork();
  if (launcher == 0) {
    LaunchSink sink;
    LaunchOptions options = options_of(folder, 2, 20, "silent", -1, "");
    (void)launch(options, sink);
    ::_exit(0);
  }
  ::close(pids[0]);
  ::close(pids[1]);
  // Its children, from the system's table of processes.
  const auto children = [&] {
    std::vector<pid_t> out;
    std::ifstream in("/proc/" + std::to_string(launcher) + "/task/" + std::to_string(launcher) +
                     "/children");
    for (pid_t pid = 0; in >> pid;) out.push_back(pid);
    return out;
  };
  std::vector<pid_t> found;
  for (int i = 0; i < 100 && found.size() < 2; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    found = children();
  }
  REQUIRE(found.size() == 2);
  ::kill(launcher, SIGKILL);
  ::waitpid(launcher, nullptr, 0);
  int alive = 2;
  for (int i = 0; i < 100 && alive > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    alive = 0;
    for (pid_t pid : found) {
      std::ifstream status("/proc/" + std::to_string(pid) + "/stat");
      std::string text{std::istreambuf_iterator<char>(status), {}};
      if (!text.empty() && text.find(") Z") == std::string::npos) ++alive;
    }
  }
  CHECK(alive == 0);
}

TEST_CASE("launcher: a program that is not there") {
  RunFolder folder;
  LaunchOptions options = options_of(folder, 2, 5, "steps", -1, "");
  options.program = folder.path + "/nothing";
  const Result<LaunchOutcome> outcome = launch(options, {});
  REQUIRE(!outcome.ok());
  CHECK(outcome.error().diagnostics[0].code == "E-EXEC-001");
  CHECK(outcome.error().diagnostics[0].found == "exec: No such file or directory");
}

TEST_CASE("launcher: addresses that would listen to everybody are refused") {
  RunFolder folder;
  LaunchOptions options = options_of(folder, 2, 5, "steps", -1, "");
  options.listen = "0.0.0.0";
  const Result<LaunchOutcome> outcome = launch(options, {});
  REQUIRE(!outcome.ok());
  CHECK(outcome.error().diagnostics[0].code == "E-RDZV-005");
}
