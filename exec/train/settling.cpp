#include "exec/train/settling.h"

namespace tandem::exec {

Result<std::unique_ptr<Settler>> Settler::create(const Plan& settling, const TrainingConfig& config,
                                                 CommBackend& comm, OpObserver* observer,
                                                 std::int64_t ops_before, Interpreter& training) {
  std::unique_ptr<Settler> out(new Settler(observer, ops_before, training));
  Result<std::unique_ptr<Interpreter>> own =
      settling_on_cpu(settling, config, comm, observer ? &out->observer_ : nullptr, training);
  if (!own) return own.error();
  out->interpreter_ = std::move(*own);
  training.settle_with([settler = out.get()](int step) { return settler->run(step); });
  return out;
}

Result<StepResult> Settler::run(int step) {
  Result<StepResult> result = interpreter_->run_settling(step);
  if (result) training_.is_settled();
  return result;
}

}  // namespace tandem::exec
