// Static checks of a plan: what must be proved before either backend may run it. Needs no device.
// Each pass is a file here that says what it proves and what it does not; docs/plan_reference.md,
// "Verification", has the list with sub-codes (V3.2). Source of the rules: schedules.md section 5.
//
// What the whole proves: every op has the operands its kernel needs, every buffer is written before
// it is read and lives while it is used, streams are ordered wherever data goes from one to the
// other, sends and receives fit, and no set of ops waits for each other. Not proved: that kernels
// compute the right thing, that costs are right, that the backend keeps the rules.
//
// Plans are SPMD: one program stands for all ranks of a pipeline coordinate. Those ranks behave
// alike, so an op is done on one exactly when it is on all, and the passes look at one for each.
// Pure and thread-safe; the plan may come from anywhere. O(ops + operands + waits), times the
// streams of a program for V9.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/diagnostic.h"
#include "common/plan/plan.h"

namespace tandem {

struct VerifyOptions {
  // Memory of one device in bytes: V8 refuses a plan that needs more.
  std::optional<Bytes> capacity;
  // Level (d) is demanded, as NCCL does: a device runs its communications one at a time.
  bool serial_launch = false;
  // V2; off for fragments of plans.
  bool completeness = true;
  // Where messages point: the canonical or any other text of the plan, and its name. May be empty.
  std::string file = "plan";
  std::string_view text;
};

// Memory of the ranks of one program (live_bytes.h). The same in both backends, at any timing.
struct ProgramMemory {
  Bytes persistent = 0;  // lives for the run
  Bytes peak = 0;
  OpId op_at_peak;        // the first op that reaches it; -1: persistent only
  ClassBytes at_peak{};   // sums to `peak`
  ClassBytes by_class{};  // each class's own peak, at any time
  // Most visits (stage, microbatch) in flight: from their first forward op to the end of their last
  // W or B (peak_w), to the end of their last I or B (peak_i).
  int peak_w = 0, peak_i = 0;
};

struct Verification {
  Diagnostics errors;  // at most 100; warnings are none
  // Levels (a) to (d) of V6: the plan ends there. All false if it could not be looked at.
  bool buffered = false, rendezvous = false, blocking_host = false, serial_launch = false;
  // As rendezvous, and an op that allocates is issued when all earlier frees are carried out: the
  // rule of both our backends (plan.h).
  bool memory_order = false;
  bool deadlock_free = false;  // at every level that is demanded
  std::vector<ProgramMemory> programs;
  [[nodiscard]] bool ok() const { return errors.empty(); }
};

[[nodiscard]] Verification verify_plan(const Plan& plan, const VerifyOptions& options = {});

}  // namespace tandem
