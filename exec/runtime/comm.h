// What the interpreter asks of a transport: run one communication op and return when it has ended.
// Called from the worker thread of the op's stream, so a communicator is a FIFO of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/base/result.h"
#include "common/plan/plan.h"

namespace tandem::exec {

// Payload that an op has really moved at this rank, over all steps, what its algorithm must send by
// the closed forms of common/collective/laws.h, and what the member handed over (column "in" of
// models.md 1; of rows known only at run time the true ones). All 0 where a backend does not count.
struct MovedBytes {
  Bytes sent = 0, received = 0, lawful_sent = 0, handed_over = 0;
};

// Memory of one communication op, as Plan::Op names it.
struct CommOperands {
  std::byte* data = nullptr;  // Op::buffer
  Bytes bytes = 0;
  std::byte* source = nullptr;  // Op::source; null: in place
  Bytes source_bytes = 0;
  // Of rows (Op::send_rows, recv_rows): counts, members * k of them, and the bytes of a row.
  std::span<const std::int32_t> send_rows, recv_rows;
  Bytes row_bytes = 0;
  // When the op could begin at this rank (monotonic ns of the host). Told to its partners.
  Nanoseconds ready = 0;
};

class CommBackend {
 public:
  virtual ~CommBackend() = default;
  // Blocks. Returns the moment (monotonic ns) when all members were there.
  [[nodiscard]] virtual Result<Nanoseconds> run(OpId op, int step,
                                                const CommOperands& operands) = 0;
  // Makes every blocked and later run() fail soon. Any thread; more than once is fine.
  virtual void abort() = 0;
  // Between steps; any thread.
  [[nodiscard]] virtual MovedBytes moved(OpId) const { return {}; }
};

// Told about every op: a flight recorder. Called from issuing and worker threads; must not block.
class OpObserver {
 public:
  virtual ~OpObserver() = default;
  virtual void queued(OpId op, int step) = 0;
  virtual void started(OpId op, int step) = 0;
  virtual void done(OpId op, int step) = 0;
  // A step of the run has ended well; called by the thread that runs the steps.
  // `evaluation`: the validation loss, where it was looked at behind this step.
  virtual void step_ended(int /*step*/, double /*loss*/, double /*tokens*/, Nanoseconds,
                          std::optional<double> /*evaluation*/) {}
};

}  // namespace tandem::exec
