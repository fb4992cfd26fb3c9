// The updates of a run that checks them late (common/plan/late_validation.h): settles the last one
// by the plan of settling, where a step is given up, and behind a step whose parameters somebody
// is to see: a checkpoint, an evaluation, the comparison of replicas, the end. One thread calls it,
// never while a step runs.
#pragma once

#include <memory>

#include "common/base/result.h"
#include "common/plan/training.h"
#include "exec/runtime/on_cpu.h"
#include "exec/train/evaluation.h"

namespace tandem::exec {

class Settler {
 public:
  // All outlive it, and it outlives the steps of `training`, which settle with it. `observer` may
  // be null; `ops_before`: of the plans numbered before this one. Errors of settling_on_cpu().
  [[nodiscard]] static Result<std::unique_ptr<Settler>> create(
      const Plan& settling, const TrainingConfig& config, CommBackend& comm, OpObserver* observer,
      std::int64_t ops_before, Interpreter& training);

  // Of `step`, the last that has run: loss, norm and the other sums of that step. All ranks call
  // it. E-EXEC-031 where the norm is not finite.
  [[nodiscard]] Result<StepResult> run(int step);

 private:
  Settler(OpObserver* observer, std::int64_t ops_before, Interpreter& training)
      : observer_(observer, ops_before), training_(training) {}
  ObserverBehind observer_;
  Interpreter& training_;
  std::unique_ptr<Interpreter> interpreter_;
};

}  // namespace tandem::exec
