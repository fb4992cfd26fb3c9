#include "exec/train/evaluation.h"

#include <fmt/format.h>

#include <cmath>

#include "exec/device/clock.h"

namespace tandem::exec {

Result<std::unique_ptr<Evaluator>> Evaluator::create(const Plan& evaluation, const Plan& training,
                                                     const TrainingConfig& config,
                                                     CommBackend& comm, OpObserver* observer,
                                                     const Interpreter& interpreter) {
  std::unique_ptr<Evaluator> out(new Evaluator(training, config, observer));
  Result<std::unique_ptr<Interpreter>> own =
      evaluation_on_cpu(evaluation, config, comm, observer ? &out->observer_ : nullptr, interpreter,
                        config.metrics_activations ? &out->probe_ : nullptr,
                        config.verify ? &out->choices_ : nullptr);
  if (!own) return own.error();
  out->interpreter_ = std::move(*own);
  return out;
}

Result<EvaluationLoss> Evaluator::run(int step) {
  const Nanoseconds started = now_ns();
  choices_.routed.clear();
  double sum = 0;
  for (int batch = 0; batch < batches_; ++batch) {
    const Result<StepResult> result = interpreter_->run_batch(batch, step);
    if (!result) return result.error();
    sum += result->loss;
  }
  interpreter_->drop_pages();
  const EvaluationLoss out{step, sum / batches_, now_ns() - started};
  if (!std::isfinite(out.loss))
    return make_error(Failure::execution, "E-EXEC-031", "a value that must be finite is not",
                      fmt::format("evaluation loss = {} after step {}", out.loss, step),
                      "a finite value",
                      "lower training.optimizer.lr; --resume goes on from the last checkpoint");
  losses_.push_back(out);
  return out;
}

Result<Activations> Evaluator::look(int step) {
  for (auto& [layer, sums] : probe_.sums) sums = {};
  probe_.on = true;
  const Result<StepResult> result = interpreter_->run_batch(0, step);
  probe_.on = false;
  if (!result) return result.error();
  interpreter_->drop_pages();
  return probe_.sums;
}

}  // namespace tandem::exec
