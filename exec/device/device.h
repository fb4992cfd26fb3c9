// Where the ops of one rank happen: its memory, its kernels and its clock. The interpreter drives a
// device; streams and events are the same for every device of a host (stream.h). No LibTorch here.
//
//   cpu        cpu.h        kernels of LibTorch in the plan's memory; an op ends when its work has
//   rehearsal  rehearsal.h  no memory and no work; an op ends a given time after its start
//
// One object is one rank's; the plan outlives it. Once prepared, calls come from the threads of the
// streams at the same time, each about its own op.
#pragma once

#include <vector>

#include "common/base/units.h"
#include "exec/kernels/kernel.h"

namespace tandem::exec {

class Device {
 public:
  virtual ~Device() = default;

  // --- once
  // On the thread of each stream, before its first op.
  virtual void begin_thread() = 0;
  // Memory of a buffer, for the whole run. No data: the device keeps no values.
  [[nodiscard]] virtual View view(BufferId id) const = 0;
  // The kernels of a compute op, in order; the thread of its stream runs them. E-EXEC-035.
  [[nodiscard]] virtual Result<std::vector<Prepared>> prepare(const Op& op) = 0;

  // --- in a step
  // Step k = 0.. of training begins.
  virtual void begin_step(int step) = 0;
  // Fills `to` with the tokens that a copy op brings in, of step `step` (of an evaluation: of its
  // batch).
  virtual void copy(const View& to, int step, const Op& op) = 0;

  // --- the clock: CLOCK_MONOTONIC, ns
  // When an op begins, called as it does: what it waited for, and its issue, were over at `cause`.
  [[nodiscard]] virtual Nanoseconds begin(Nanoseconds cause) = 0;
  // When the transfer of a communication begins: the transport saw all members at `together`.
  [[nodiscard]] virtual Nanoseconds meet(Nanoseconds together) = 0;
  // When the op ends. What it does at this rank has been done; may block until it ends.
  [[nodiscard]] virtual Nanoseconds end(OpId op, Nanoseconds started) = 0;
  // Ends every blocked and later end() at once. Any thread.
  virtual void abort() = 0;

  // --- memory beside the plan's live bytes
  // Most that kernels held beside the plan's buffers since the last reset.
  [[nodiscard]] virtual Bytes scratch_peak() const = 0;
  virtual void reset_scratch_peak() = 0;
  // What the plan's buffers lie in.
  [[nodiscard]] virtual Bytes slab_bytes() const = 0;
  // Between steps: gives the memory of buffers that do not live for the run back to the system.
  virtual void drop_pages() = 0;
};

}  // namespace tandem::exec
