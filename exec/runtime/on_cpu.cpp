#include "exec/runtime/on_cpu.h"

#include "exec/device/cpu.h"
#include "exec/runtime/lent_buffers.h"
#include "exec/train/init.h"

namespace tandem::exec {
namespace {

Result<std::unique_ptr<Interpreter>> make(const Plan& plan, Rank rank, const TrainingConfig& config,
                                          CommBackend& comm, OpObserver* observer,
                                          Result<Arena> arena, ActivationProbe* probe,
                                          ChoiceLog* choices) {
  Result<std::unique_ptr<CpuDevice>> device =
      CpuDevice::create(plan, rank, config, std::move(arena), probe, choices);
  if (!device) return device.error();
  return Interpreter::create(plan, rank, config, comm, observer, std::move(*device));
}

}  // namespace

Result<std::unique_ptr<Interpreter>> interpreter_on_cpu(const Plan& plan, Rank rank,
                                                        const TrainingConfig& config,
                                                        CommBackend& comm, OpObserver* observer,
                                                        ChoiceLog* choices) {
  if (plan.header.evaluation)
    return make_error(Failure::infeasible, "E-EXEC-035", "the executor cannot run this plan",
                      "an evaluation by itself", "a plan that trains",
                      "its parameters are those of a run that trains: execute the scenario");
  Result<std::unique_ptr<Interpreter>> out =
      make(plan, rank, config, comm, observer, Arena::create(plan, plan.program_of(rank)), nullptr,
           choices);
  if (out && config.first_step == 0)
    init_parameters(plan, rank, config, [&](BufferId id) { return (*out)->view(id); });
  return out;
}

namespace {

// On what lives for the run in `training`.
Result<std::unique_ptr<Interpreter>> beside(const Plan& plan, const TrainingConfig& config,
                                            CommBackend& comm, OpObserver* observer,
                                            const Interpreter& training, ActivationProbe* probe,
                                            ChoiceLog* choices) {
  const ProgramId program = plan.program_of(training.rank());
  Result<std::vector<BufferId>> of_training = lent_buffers(plan, training.plan(), program);
  if (!of_training) return of_training.error();
  std::vector<std::byte*> lent;
  for (BufferId id : *of_training) lent.push_back(id.valid() ? training.view(id).data : nullptr);
  return make(plan, training.rank(), config, comm, observer,
              Arena::create(plan, program, std::move(lent)), probe, choices);
}

}  // namespace

Result<std::unique_ptr<Interpreter>> evaluation_on_cpu(const Plan& plan,
                                                       const TrainingConfig& config,
                                                       CommBackend& comm, OpObserver* observer,
                                                       const Interpreter& training,
                                                       ActivationProbe* probe, ChoiceLog* choices) {
  return beside(plan, config, comm, observer, training, probe, choices);
}

Result<std::unique_ptr<Interpreter>> settling_on_cpu(const Plan& plan, const TrainingConfig& config,
                                                     CommBackend& comm, OpObserver* observer,
                                                     const Interpreter& training) {
  return beside(plan, config, comm, observer, training, nullptr, nullptr);
}

}  // namespace tandem::exec
