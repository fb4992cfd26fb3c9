// Faults on purpose, for tests of launcher and recorders: wraps a transport and does something bad
// at one communication op of one rank. Only in builds with TANDEM_FAULTS; nothing ships with it.
//
//   ACTION@RANK:OP:PHASE[:STEP]      rank 2, before op 117 of step 0: "kill@2:117:before"
//   ACTION   kill   SIGKILL to this process      stop   SIGSTOP (it stays silent)
//            exit   _exit(5) without a word      fail   the op returns E-EXEC-048
//            delayMS  sleeps, e.g. delay250
//   PHASE    before the op has said anything, or after it has ended
//   STEP     of training; 0 if absent
// Thread-safe as the wrapped transport is. The fault happens once.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "exec/runtime/comm.h"

namespace tandem::exec {

struct PlannedFault {
  enum class Action : std::uint8_t { kill, stop, exit, fail, delay };
  enum class Phase : std::uint8_t { before, after };
  Action action = Action::kill;
  Phase phase = Phase::before;
  Rank rank;
  OpId op;
  int step = 0;
  int delay_ms = 0;
  bool operator==(const PlannedFault&) const = default;
};

// E-EXEC-049 for a text of another form.
[[nodiscard]] Result<PlannedFault> parse_fault(const std::string& text);

class FaultyTransport final : public CommBackend {
 public:
  FaultyTransport(std::unique_ptr<CommBackend> inner, Rank rank, const PlannedFault& fault)
      : inner_(std::move(inner)), rank_(rank), fault_(fault) {}
  [[nodiscard]] Result<Nanoseconds> run(OpId op, int step, const CommOperands& operands) override;
  void abort() override { inner_->abort(); }
  [[nodiscard]] MovedBytes moved(OpId op) const override { return inner_->moved(op); }

 private:
  [[nodiscard]] Status happen();
  const std::unique_ptr<CommBackend> inner_;
  const Rank rank_;
  const PlannedFault fault_;
  std::atomic<bool> happened_ = false;
};

}  // namespace tandem::exec
