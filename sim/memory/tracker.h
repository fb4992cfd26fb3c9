// Peak memory of a program: the most that is live after the issue of an op
// (common/plan/live_bytes.h). A host issues an allocating op only when all earlier frees have been
// carried out, so peak memory does not depend on timing, and the executor measures the same number.
// `needed` adds what the LibTorch code of an op's kernels takes while it runs (hidden_scratch,
// class scratch); the device must hold it.
#pragma once

#include <span>
#include <vector>

#include "common/base/result.h"
#include "common/plan/live_bytes.h"
#include "common/plan/plan.h"
#include "common/timeline/timeline.h"

namespace tandem::sim {

struct ProgramMemory {
  ClassBytes persistent{};
  PeakMemory peak;           // of plan buffers; rank is filled by the caller
  Bytes kernel_scratch = 0;  // the largest hidden scratch of one op
  Bytes needed = 0;          // the largest sum of plan buffers and hidden scratch
  OpId op_needed;
  ClassBytes at_needed{};
};

// By program, with the balanced rows of the plan.
[[nodiscard]] std::vector<ProgramMemory> track_memory(const Plan& plan);
// Of one rank over several steps with these rows: each class's largest peak, the largest total.
[[nodiscard]] ProgramMemory track_memory(const Plan& plan, ProgramId program,
                                         std::span<const RunTimeRows* const> steps);

// E-PLAN-080 (infeasible): the classes at the peak, the op and its time.
[[nodiscard]] Error over_capacity(const Plan& plan, const ProgramMemory& memory, Rank rank,
                                  Bytes capacity, Picoseconds time);

}  // namespace tandem::sim
