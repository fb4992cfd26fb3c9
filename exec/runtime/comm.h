// What the interpreter asks of a transport: run one communication op and return when it has ended.
// Called from the worker thread of the op's stream, so a communicator is a FIFO of its own.
#pragma once

#include <cstddef>

#include "common/base/result.h"
#include "common/plan/plan.h"

namespace tandem::exec {

// Payload that an op has really moved at this rank, over all steps, and what its algorithm must
// send by the closed forms of common/collective/laws.h. All 0 where a backend does not count.
struct MovedBytes {
  Bytes sent = 0, received = 0, lawful_sent = 0;
};

class CommBackend {
 public:
  virtual ~CommBackend() = default;
  // `data`: the op's buffer, in place; `bytes`: its size. Blocks. Returns the moment (monotonic ns)
  // when all members were there.
  [[nodiscard]] virtual Result<Nanoseconds> run(OpId op, int step, std::byte* data,
                                                Bytes bytes) = 0;
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
  virtual void step_ended(int /*step*/, double /*loss*/, double /*tokens*/, Nanoseconds) {}
};

}  // namespace tandem::exec
