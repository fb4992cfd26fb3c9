// From everything that went wrong in a run to the one cause: which rank failed first by itself.
// Pure. What is collected: launcher.h.
//
//   Rule (root cause, not loudest)   A rank's own death, crash, error, stop or late op outranks the
//   loss of its control connection, which outranks "lost a peer", which outranks "was told to
//   stop". Among equals the earliest wins, then the lower rank.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "common/base/result.h"
#include "common/base/units.h"

namespace tandem::exec {

enum class Cause {
  killed,        // by a signal that is no crash
  crashed,       // by SEGV, ABRT, ...
  failed,        // ended with an error of its own
  left,          // ended with exit code 0 before the run was over
  stopped,       // SIGSTOP and the like, longer than the timeout or while others waited in vain
  late,          // an op does not end
  never_joined,  // did not come to the rendezvous in time
  silent,        // its control connection broke or went quiet, though its process lives
  peer_lost,     // reports that it waited for another rank in vain
  aborted,       // stopped because of another
};
[[nodiscard]] std::string_view name_of(Cause cause);

struct Fault {
  Cause cause = Cause::failed;
  int rank = -1;
  Nanoseconds time = 0;  // since the start
  int step = -1, op = -1;
  std::string phase;  // of the op: "queued", "started"; empty: not known
  int signal = 0;
  int exit_class = 5;      // of `failed`, `peer_lost`
  std::string code, text;  // the rank's own message
};

// Nullptr: none.
[[nodiscard]] const Fault* first_cause(std::span<const Fault> faults);

// Exit class of robustness.md 5.
[[nodiscard]] Failure failure_of(const Fault& fault);

// One diagnostic that names rank, step, op and phase. `describe_op`: op id to its text; may be
// null. `timeout_s`: execute.timeout, named where it ended the wait.
[[nodiscard]] Error to_error(const Fault& fault, double timeout_s,
                             const std::function<std::string(int)>& describe_op = nullptr);

}  // namespace tandem::exec
