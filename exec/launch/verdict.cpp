#include "exec/launch/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "exec/launch/signals.h"

namespace tandem::exec {
namespace {

int strength(Cause cause) {
  switch (cause) {
    case Cause::killed:
    case Cause::crashed:
    case Cause::failed:
    case Cause::left:
    case Cause::stopped:
    case Cause::late:
    case Cause::never_joined:
      return 0;
    case Cause::silent:
      return 1;
    case Cause::peer_lost:
      return 2;
    case Cause::aborted:
      return 3;
  }
  return 4;
}

// What stands in the message beside the place.
struct Words {
  const char* code;
  const char* title;
  std::string found, expected, hint;
};

Words words_of(const Fault& f, double timeout_s) {
  const std::string timeout = fmt::format("execute.timeout = {:g} s", timeout_s);
  switch (f.cause) {
    case Cause::killed:
      return {"E-EXEC-002", "a rank was killed", signal_name(f.signal),
              "a rank that ends by itself",
              f.signal == SIGKILL ? "out of memory? compare the predicted peak with the machine's "
                                    "memory; else somebody sent the signal"
                                  : "somebody sent the signal"};
    case Cause::crashed:
      return {"E-EXEC-003", "a rank crashed", signal_name(f.signal), "a rank that ends by itself",
              "a fault of Tandem or LibTorch: please report it with the rank's .err file"};
    case Cause::failed:
      return {"E-EXEC-004", "a rank failed",
              f.text.empty()   ? fmt::format("exit code {}", f.exit_class)
              : f.code.empty() ? f.text
                               : f.code + ": " + f.text,
              "a rank that runs to its end", "its .err file in the run's ranks folder says more"};
    case Cause::left:
      return {"E-EXEC-005", "a rank left early", "exit code 0 before the run was over",
              "ranks that stay until the last step", "its .err file may say why"};
    case Cause::stopped:
      return {"E-EXEC-006", "a rank was stopped",
              f.signal ? signal_name(f.signal) : std::string("a stop signal"),
              "ranks that run, or are stopped for less than " + timeout,
              "continue it with kill -CONT while the others wait, or raise execute.timeout"};
    case Cause::late:
      return {"E-EXEC-007", "an operation does not end", f.text.empty() ? "no progress" : f.text,
              fmt::format("an end within max({}, 20 x predicted step)", timeout),
              "raise execute.timeout if the machine is that slow"};
    case Cause::never_joined:
      return {"E-EXEC-008", "a rank did not join the run",
              f.text.empty() ? "no message from it" : f.text, "all ranks within " + timeout,
              "raise execute.timeout if the machine is slow to start ranks; its .err file may say "
              "why"};
    case Cause::silent:
      return {"E-EXEC-009", "a rank is silent", f.text.empty() ? "no heartbeat" : f.text,
              "a heartbeat every few seconds", "its .err file may say why"};
    case Cause::peer_lost:
      return {"E-EXEC-010", "a rank waited for another in vain",
              f.code.empty() ? f.text : f.code + ": " + f.text, "an answer within " + timeout,
              "raise execute.timeout if a rank may compute that long"};
    case Cause::aborted:
      return {"E-EXEC-011", "the run was stopped", f.text.empty() ? "by the launcher" : f.text,
              "a run that ends by itself", "run again"};
  }
  return {"E-EXEC-011", "the run was stopped", "", "", ""};
}

}  // namespace

std::string_view name_of(Cause cause) {
  switch (cause) {
    case Cause::killed:
      return "killed";
    case Cause::crashed:
      return "crashed";
    case Cause::failed:
      return "failed";
    case Cause::left:
      return "left early";
    case Cause::stopped:
      return "stopped";
    case Cause::late:
      return "late";
    case Cause::never_joined:
      return "never joined";
    case Cause::silent:
      return "silent";
    case Cause::peer_lost:
      return "lost a peer";
    case Cause::aborted:
      return "aborted";
  }
  return "?";
}

const Fault* first_cause(std::span<const Fault> faults) {
  const auto key = [](const Fault& f) { return std::tuple(strength(f.cause), f.time, f.rank); };
  const auto at = std::min_element(faults.begin(), faults.end(),
                                   [&](const Fault& a, const Fault& b) { return key(a) < key(b); });
  return at == faults.end() ? nullptr : &*at;
}

Failure failure_of(const Fault& fault) {
  switch (fault.cause) {
    case Cause::crashed:
      return Failure::internal;
    case Cause::failed:
      switch (fault.exit_class) {
        case 3:
          return Failure::bad_input;
        case 4:
          return Failure::infeasible;
        case 6:
          return Failure::peer_lost;
        case 7:
          return Failure::output;
        case 70:
          return Failure::internal;
        default:
          return Failure::execution;
      }
    case Cause::killed:
    case Cause::left:
    case Cause::stopped:
    case Cause::late:
    case Cause::never_joined:
    case Cause::silent:
    case Cause::peer_lost:
    case Cause::aborted:
      return Failure::peer_lost;
  }
  return Failure::internal;
}

Error to_error(const Fault& fault, double timeout_s,
               const std::function<std::string(int)>& describe_op) {
  Words w = words_of(fault, timeout_s);
  std::string place = fault.rank < 0 ? "no rank" : fmt::format("rank {}", fault.rank);
  if (fault.step >= 0) place += fmt::format(", step {}", fault.step);
  if (fault.op >= 0)
    place += fmt::format(", op {}{}{}", fault.op, describe_op ? " " : "",
                         describe_op ? describe_op(fault.op) : "");
  if (!fault.phase.empty()) place += fmt::format(" ({})", fault.phase);
  return make_error(failure_of(fault), w.code, w.title, place + ": " + w.found,
                    std::move(w.expected), std::move(w.hint));
}

}  // namespace tandem::exec
