// Compares a run with plain autograd in one process: losses of every step, every gradient with the
// shards of all ranks put together, and every replica with the first one, bit by bit. Where ep
// ranks read the same batches (Plan::replicates_data) their replicas are equal to rounding: 1e-6 of
// the tensor's largest value, or of q * norm for gradients.
//
//   error of a tensor = amax|g - ref| / max(amax|ref|, q * norm), norm = global gradient norm,
//   q = 1e-6 (fp64), 1e-3 (fp32): some gradients are 0 by theory (attn.k.bias)    models.md 9
#pragma once

#include <string>
#include <vector>

#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/train/rank_tensors.h"

namespace tandem::exec {

struct VerifyReport {
  double max_rel_loss = 0;        // over all steps
  double max_rel_evaluation = 0;  // over all evaluations
  double max_rel_norm = 0;        // step 0
  double max_rel_grad = 0;        // step 0; in fp64 every step
  // After the last update, biases of routers too; a claim in fp64 only.
  double max_abs_parameter = 0;
  std::string worst_tensor;  // of max_rel_grad
  int worst_step = 0;
  bool replicas_equal = true;
  std::string replica_difference;  // the first one: tensor, ranks
  std::vector<double> losses, reference_losses, reference_norms;
  std::vector<double> rel_grad_by_step;
  int num_tensors = 0;
};

// Gradient tensors of a program that hold reduced values: all but second parts of a tied embedding.
[[nodiscard]] std::vector<BufferId> reduced_gradients(const Plan& plan, ProgramId program);

// What is compared after the last step: parameters, and the biases of sigmoid routers.
[[nodiscard]] std::vector<BufferId> final_tensors(const Plan& plan, ProgramId program);

// `losses`, `norms`: by step, as the run reported them; `evaluations`: losses of validation data,
// in their order. E-EXEC-034 where a part is missing.
[[nodiscard]] Result<VerifyReport> verify_run(const Plan& plan, const TrainingConfig& config,
                                              const std::vector<RankTensors>& ranks,
                                              const std::vector<double>& losses,
                                              const std::vector<double>& norms,
                                              const std::vector<double>& evaluations = {});

}  // namespace tandem::exec
