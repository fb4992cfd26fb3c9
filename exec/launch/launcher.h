// Starts the ranks of a run as processes, serves their control plane, watches them, and ends them.
// Knows no plan and no LibTorch; tests run it with a tiny child. One thread, the caller's, which
// must be the only one of the process (the death signal of children follows it).
//
//   a rank is   program, arguments..., RUN, K, --port P --token-fd 3 --data-fd 4 --num-data N ...
//   it inherits 3: the token, 32 bytes and the end   4, 5, ...: its data descriptors
//   first failure at t: ABORT to all at t, SIGTERM at t + 1 s, SIGKILL at t + 4 s, and at t + 5 s
//   the launcher stops waiting. So a run ends within execute.timeout + 5 s of the fault.
//   SIGINT, SIGTERM: the same sequence; a second one goes straight to SIGKILL.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "exec/launch/verdict.h"
#include "exec/rendezvous/protocol.h"

namespace tandem::exec {

struct LaunchOptions {
  std::string program;                 // an absolute path
  std::vector<std::string> arguments;  // argv before the run directory; the name first
  std::vector<std::string> options;    // argv after our own options
  std::string run_dir;                 // RUN/ranks exists
  std::string version, plan_id;
  int world = 1;
  double timeout_s = 60;
  double late_s = 60;  // an op, or a pause without any progress, longer than this is late
  std::vector<std::vector<int>> data;   // by rank: descriptors; closed here when all have started
  std::vector<std::vector<int>> cores;  // by rank: `--cores`; empty: not pinned
  std::string listen = "127.0.0.1";
};

// Told on the launcher's thread, while it waits. Each may be empty.
struct LaunchSink {
  std::function<void(int rank, bool error, std::string_view line)> line;  // of a rank's output
  std::function<void(int rank, const Report& progress)> progress;         // a step has ended
  std::function<void(const std::string& text)> note;  // "a stranger ...": for stderr
};

struct RankEnd {
  bool reaped = false;
  int exit_code = -1;  // -1: ended by `signal`
  int signal = 0;
  bool joined = false, said_bye = false;
  std::vector<std::string> last_lines;  // of its standard error
};

struct LaunchOutcome {
  std::optional<Failure> failure;  // none: every rank ran to its end
  std::optional<Fault> culprit;    // of `failure`; none where the user's signal ended the run
  std::vector<Fault> faults;       // all that was seen, in order of time
  std::vector<RankEnd> ranks;
  std::optional<Failure> log_failure;  // a log could not be written; the run went on
  double wall_s = 0, stop_s = 0;       // whole run; from the first fault to the end
};

// Errors: what kept the run from starting. E-RDZV-005, -006, E-EXEC-001, E-IO-010.
[[nodiscard]] Result<LaunchOutcome> launch(LaunchOptions options, const LaunchSink& sink);

}  // namespace tandem::exec
