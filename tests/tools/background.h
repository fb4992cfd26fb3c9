// A `tandem execute` that goes on until something happens to it: a process of the test's own,
// killed with the object. The target defines TANDEM_PROGRAM.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>

#include "tests/tools/program.h"

namespace tandem::test {

using Timer = std::chrono::steady_clock;
inline double since(Timer::time_point t) {
  return std::chrono::duration<double>(Timer::now() - t).count();
}

class Background {
 public:
  // Of the pipeline of two ranks of chapter 5, into folder/run.
  Background(const TempDir& folder, const std::vector<std::string>& more)
      : run_(folder / "run"), err_(folder / "err") {
    std::vector<std::string> words = {TANDEM_PROGRAM, "execute", "scenarios/learn/05_1f1b.yaml",
                                      "-o", run_};
    words.insert(words.end(), more.begin(), more.end());
    pid_ = ::fork();
    if (pid_ == 0) {
      const int out = ::open("/dev/null", O_WRONLY);
      const int err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      ::dup2(out, 1);
      ::dup2(err, 2);
      std::vector<char*> argv;
      for (std::string& w : words) argv.push_back(w.data());
      argv.push_back(nullptr);
      if (::chdir(TANDEM_SOURCE_DIR) == 0) ::execv(TANDEM_PROGRAM, argv.data());
      ::_exit(127);
    }
  }
  ~Background() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // The ranks' process ids, once `are_there` holds.
  template <class Condition>
  [[nodiscard]] std::vector<pid_t> ranks_when(Condition&& are_there) const {
    const auto start = Timer::now();
    while (!are_there()) {
      REQUIRE_MESSAGE(since(start) < 60, messages());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const std::string self = std::to_string(pid_);
    std::ifstream in("/proc/" + self + "/task/" + self + "/children");
    return {std::istream_iterator<pid_t>(in), {}};
  }
  // Exit code; 128 + signal where it was killed.
  int wait(double limit_s) {
    const auto start = Timer::now();
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      REQUIRE_MESSAGE(since(start) < limit_s, "it does not end");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string messages() const { return slurp(err_); }
  [[nodiscard]] const std::string& folder() const { return run_; }

 private:
  const std::string run_, err_;
  pid_t pid_ = -1;
};

inline bool gone(pid_t pid) { return ::kill(pid, 0) != 0 && errno == ESRCH; }

}  // namespace tandem::test
