// The validation loss of a run, between its steps: training.evaluation_batches global batches
// through the evaluation plan, with the parameters of training where they lie
// (runtime/on_cpu.h). Nothing that training will read is written, so a run
// that evaluates trains bit by bit as one that does not.
//
//   loss    mean over the batches, in their order, of the cross-entropy a token (models.md 8.3)
//   memory  its buffers are a slab of its own, whose pages go back to the system behind every
//           evaluation; of what lives for the run it has none
// One thread calls it, never while a step runs.
#pragma once

#include <memory>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/runtime/on_cpu.h"

namespace tandem::exec {

// Tells the observer of the ops of a plan beside the training plan by numbers behind those of the
// plans before it, so that a flight recorder and a launcher can tell them apart
// (runtime/recorder.h).
class ObserverBehind final : public OpObserver {
 public:
  // `before`: the number of ops of the plans before its own.
  ObserverBehind(OpObserver* inner, std::int64_t before) : inner_(inner), num_ops_(before) {}
  void queued(OpId op, int step) override {
    if (inner_) inner_->queued(behind(op), step);
  }
  void started(OpId op, int step) override {
    if (inner_) inner_->started(behind(op), step);
  }
  void done(OpId op, int step) override {
    if (inner_) inner_->done(behind(op), step);
  }

 private:
  [[nodiscard]] OpId behind(OpId op) const { return OpId{num_ops_ + op.value}; }
  OpObserver* inner_;
  const std::int64_t num_ops_;
};

struct EvaluationLoss {
  int step = 0;  // of training: after this one
  double loss = 0;
  Nanoseconds duration = 0;
};

class Evaluator {
 public:
  // All outlive it; `observer` may be null. Errors of evaluation_on_cpu().
  [[nodiscard]] static Result<std::unique_ptr<Evaluator>> create(
      const Plan& evaluation, const Plan& training, const TrainingConfig& config, CommBackend& comm,
      OpObserver* observer, const Interpreter& interpreter);
  // With config.verify: what the routers chose in the last evaluation, batch by batch.
  [[nodiscard]] const ChoiceLog& choices() const { return choices_; }

  // After `step`; all ranks call it. E-EXEC-031 where the loss is not finite.
  [[nodiscard]] Result<EvaluationLoss> run(int step);

  // The first of these batches once more, and what its forward says of its layers. `step`: of
  // training, for observers. All ranks call it.
  [[nodiscard]] Result<Activations> look(int step);

  // Of all evaluations so far.
  [[nodiscard]] const std::vector<EvaluationLoss>& losses() const { return losses_; }
  [[nodiscard]] const Interpreter& interpreter() const { return *interpreter_; }

 private:
  Evaluator(const Plan& training, const TrainingConfig& config, OpObserver* observer)
      : batches_(config.evaluation_batches), observer_(observer, std::ssize(training.ops)) {}
  const int batches_;
  ObserverBehind observer_;
  ActivationProbe probe_;
  ChoiceLog choices_;
  std::unique_ptr<Interpreter> interpreter_;
  std::vector<EvaluationLoss> losses_;
};

}  // namespace tandem::exec
