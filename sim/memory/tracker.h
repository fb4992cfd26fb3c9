// Live bytes of a program, by class, from what its ops allocate and free.
//
//   live after the issue of op i = persistent + sum over j <= i of allocates - sum over j < i of
//                                  frees
// A host issues an allocating op only when all earlier frees have been carried out, so this is the
// greatest amount at that point in any run: peak memory does not depend on timing, and the
// executor measures the same number. An alias adds nothing. `needed` adds what the LibTorch code
// of an op's kernels takes while it runs (hidden_scratch, class scratch); the device must hold it.
#pragma once

#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/timeline/timeline.h"

namespace tandem::sim {

using ClassBytes = std::array<Bytes, kNumBufferClasses>;

struct ProgramMemory {
  ClassBytes persistent{};
  PeakMemory peak;           // of plan buffers; rank is filled by the caller
  Bytes kernel_scratch = 0;  // the largest hidden scratch of one op
  Bytes needed = 0;          // the largest sum of plan buffers and hidden scratch
  OpId op_needed;
  ClassBytes at_needed{};
};

// Bytes of a list of buffers by class, added with the sign to `live`.
void add_bytes(const Plan& plan, std::span<const BufferId> buffers, int sign, ClassBytes& live);

[[nodiscard]] std::vector<ProgramMemory> track_memory(const Plan& plan);

// E-PLAN-080 (infeasible): the classes at the peak, the op and its time.
[[nodiscard]] Error over_capacity(const Plan& plan, const ProgramMemory& memory, Rank rank,
                                  Bytes capacity, Picoseconds time);

}  // namespace tandem::sim
