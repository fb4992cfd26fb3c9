// Signals by name, and what a signal that ended a rank says about its cause.
#pragma once

#include <csignal>
#include <string>

namespace tandem::exec {

// "SIGKILL"; "signal 40" where it has no name.
[[nodiscard]] std::string signal_name(int signal);

// SEGV, ABRT, BUS, FPE, ILL, TRAP, SYS: a fault of the program itself (exit 70), not of its
// surroundings.
[[nodiscard]] bool is_crash(int signal);

// Blocks every signal of the calling thread while it lives: between fork and exec a child must not
// run the parent's handlers.
class BlockedSignals {
 public:
  BlockedSignals();
  ~BlockedSignals();
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  [[nodiscard]] const sigset_t& previous() const { return previous_; }

 private:
  sigset_t previous_;
};

}  // namespace tandem::exec
