// Interpreters of a rank on the CPU (exec/device/cpu.h): memory, initial values, LibTorch kernels.
#pragma once

#include <memory>

#include "exec/runtime/interpreter.h"
#include "exec/train/activations.h"
#include "exec/train/choice_log.h"

namespace tandem::exec {

// Takes memory, fills parameters, binds kernels. `observer` may be null; so may `choices`, which
// outlives it. A run that resumes (config.first_step > 0) gets zeros instead of initial values: the
// caller loads them.
[[nodiscard]] Result<std::unique_ptr<Interpreter>> interpreter_on_cpu(
    const Plan& plan, Rank rank, const TrainingConfig& config, CommBackend& comm,
    OpObserver* observer = nullptr, ChoiceLog* choices = nullptr);

// Of an evaluation plan (build.h): reads validation data, and the parameters of `training` where
// they lie. `training`, `probe` and `choices` (exec/device/cpu.h) outlive it. E-EXEC-035 where the
// two plans do not fit.
[[nodiscard]] Result<std::unique_ptr<Interpreter>> evaluation_on_cpu(
    const Plan& plan, const TrainingConfig& config, CommBackend& comm, OpObserver* observer,
    const Interpreter& training, ActivationProbe* probe = nullptr, ChoiceLog* choices = nullptr);

// Of a plan of settling (build.h): works on what lives for the run where `training`, which outlives
// it, has it. E-EXEC-035 where the two plans do not fit.
[[nodiscard]] Result<std::unique_ptr<Interpreter>> settling_on_cpu(const Plan& plan,
                                                                   const TrainingConfig& config,
                                                                   CommBackend& comm,
                                                                   OpObserver* observer,
                                                                   const Interpreter& training);

}  // namespace tandem::exec
