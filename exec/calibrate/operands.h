// Operands of one catalogue kernel in many copies, so that a timed call finds them where a run's
// step would: not all in the cache.
//
//   The first input was written by the op before it: refresh() rewrites it one call ahead of its
//   use, so that a call of the same size lies between, as in a step. That also keeps values in
//   place from decaying into denormal numbers. All other operands, and all of those of weight
//   gradients, norm and optimizer, were last touched a pass through the model ago: each set has its
//   own memory, and sets are used in turn. Scratch is one buffer, as in a plan.
//   `footprint` bytes in all, at least two sets.
//
// Values are random in [-0.5, 0.5] (tokens within the vocabulary): untouched pages of the system
// would all be one page in the first-level cache. Experts are chosen evenly, and `counts` say that
// the declared rows arrived.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "common/base/result.h"
#include "exec/kernels/kernel.h"

namespace tandem::exec {

// One block of memory, 64-byte aligned, filled once; cut from the start for each kernel.
class MeasureSlab {
 public:
  explicit MeasureSlab(Bytes bytes);
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] Bytes size() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  Bytes bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

// One set of operands with the kernel bound to it.
struct OperandSet {
  View hot;  // no data: the kernel has no input that is rewritten
  Prepared call;
};

// Bytes of one set; of the scratch that all sets share; how many sets `footprint` asks for.
[[nodiscard]] Bytes set_bytes(const Kernel& kernel, PlanTypes types);
[[nodiscard]] Bytes scratch_bytes(const Kernel& kernel, PlanTypes types, bool accumulate);
[[nodiscard]] int num_sets(Bytes one_set, Bytes footprint);

// Lays out num_sets() sets in the slab, which must hold them (checked), and binds the kernel to
// each. `context` outlives the calls. Errors of prepare().
[[nodiscard]] Result<std::vector<OperandSet>> make_operand_sets(const Kernel& kernel,
                                                                PlanTypes types, bool accumulate,
                                                                Bytes footprint, MeasureSlab& slab,
                                                                const KernelContext& context);

// Rewrites the hot input, as the op before it would.
void refresh(const OperandSet& set);

}  // namespace tandem::exec
