// Compares a run with plain autograd in one process: losses of every step, every gradient with the
// shards of all ranks put together, and every replica with the first one, bit by bit. Where ep
// ranks read the same batches (Plan::replicates_data) their replicas are equal to rounding: 1e-6 of
// the tensor's largest value, or of q * norm for gradients. Experts that routers chose are compared
// and, but in fp64, replayed: replay.h.
//
//   error of a tensor = amax|g - ref| / max(amax|ref|, q * norm), norm = global gradient norm,
//   q = 1e-6 (fp64), 1e-3 (fp32): some gradients are 0 by theory (attn.k.bias)    models.md 9
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/train/rank_tensors.h"
#include "exec/train/replay.h"

namespace tandem::exec {

struct VerifyReport {
  double max_rel_loss = 0;        // over all steps
  double max_rel_evaluation = 0;  // over all evaluations
  double max_rel_norm = 0;        // step 0
  double max_rel_grad = 0;        // step 0; in fp64 every step
  // After the last update, biases of routers too; a claim in fp64 only.
  double max_abs_parameter = 0;
  // The same of the biases alone: integers times a rate, so a claim in every precision, without
  // which replay would hide wrong sums of choices.
  double max_abs_bias = 0;
  std::string worst_tensor;  // of max_rel_grad
  int worst_step = 0;
  bool replicas_equal = true;
  std::string replica_difference;  // the first one: tensor, ranks
  std::vector<double> losses, reference_losses, reference_norms;
  std::vector<double> rel_grad_by_step;
  int num_tensors = 0;
  // Of models with experts: how the run's choices differ from the oracle's on its own way, and,
  // but in fp64, from those it makes by the run's parameters.
  std::optional<ChoiceCheck> choices, judged;
  // The one of these by which choices are right or wrong.
  [[nodiscard]] const ChoiceCheck& verdict() const { return judged ? *judged : *choices; }
};

// Gradient tensors of a program that hold reduced values: all but second parts of a tied embedding.
[[nodiscard]] std::vector<BufferId> reduced_gradients(const Plan& plan, ProgramId program);

// What is compared after the last step: parameters, and the biases of sigmoid routers.
[[nodiscard]] std::vector<BufferId> final_tensors(const Plan& plan, ProgramId program);

// Whether parameters are compared, or choices judged, behind this step.
[[nodiscard]] bool keeps_parameters(const TrainingConfig& config, int step);

// `losses`, `norms`: by step, as the run reported them; `evaluations`: losses of validation data,
// in their order; but in fp64, `ranks` of a model with experts have parameters behind every step
// (keeps_parameters). `evaluation`: their plan, null without. E-EXEC-034 where a part is missing.
[[nodiscard]] Result<VerifyReport> verify_run(const Plan& plan, const TrainingConfig& config,
                                              const std::vector<RankTensors>& ranks,
                                              const std::vector<double>& losses,
                                              const std::vector<double>& norms,
                                              const std::vector<double>& evaluations = {},
                                              const Plan* evaluation = nullptr);

}  // namespace tandem::exec
