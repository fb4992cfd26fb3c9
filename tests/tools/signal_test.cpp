// Goal: Ctrl-C and SIGTERM at any moment of a command that writes: 130 or 143, no half file, and a
// folder that the next run may use.
// Method: simulate is sent the signal after 0, 2, 4 ... ms; some runs end before it arrives.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/tools/program.h"

using namespace tandem;
using namespace tandem::test;
namespace fs = std::filesystem;

namespace {

int interrupted(const std::string& folder, int signal, int after_ms) {
  // Until it has dropped the handlers of this test program the child must not run them.
  sigset_t both, before;
  ::sigemptyset(&both);
  ::sigaddset(&both, SIGINT);
  ::sigaddset(&both, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &both, &before);
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGINT, SIG_DFL);
    ::signal(SIGTERM, SIG_DFL);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    ::alarm(20);
    const int null = ::open("/dev/null", O_RDWR);
    if (::chdir(TANDEM_SOURCE_DIR) == 0 && ::dup2(null, 1) >= 0 && ::dup2(null, 2) >= 0)
      ::execl(TANDEM_PROGRAM, TANDEM_PROGRAM, "simulate", "scenarios/learn/05_1f1b.yaml", "-o",
              folder.c_str(), static_cast<char*>(nullptr));
    ::_exit(126);
  }
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  REQUIRE(child >= 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(after_ms));
  ::kill(child, signal);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("interrupted at any time: exit code, and nothing half is left") {
  int stopped = 0;
  for (int k = 0; k < 24; ++k) {
    const int signal = k % 2 ? SIGTERM : SIGINT;
    const TempDir dir;
    const int code = interrupted(dir / "run", signal, 2 * k);
    CAPTURE(k);
    CHECK((code == 0 || code == 128 + signal));
    stopped += code != 0;
    if (!fs::exists(dir / "run")) continue;
    for (const auto& entry : fs::directory_iterator(dir / "run"))
      CHECK(entry.path().extension() != ".tmp");
    if (code != 0 && fs::exists(dir / "run/plan.txt"))
      CHECK(test::tandem({"simulate", "scenarios/learn/05_1f1b.yaml", "-o", dir / "run"}).code ==
            0);
  }
  CHECK(stopped > 0);
  MESSAGE(stopped << " of 24 runs were stopped");
}
