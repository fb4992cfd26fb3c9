// Constants of the AdamW update of a step (models.md 5), in fp64: what the kernel applies, and what
// the size of a step is computed with again (train/measure.h).
#pragma once

#include <cmath>

#include "common/plan/training.h"
#include "exec/kernels/kernel.h"

namespace tandem::exec {

// Of step k = 0.. of training.
[[nodiscard]] inline AdamWStep adamw_step(const TrainingConfig& config, int step) {
  const double lr = learning_rate(config, step), k = step + 1;
  return {config.beta1,
          config.beta2,
          config.eps,
          1 - lr * config.weight_decay,
          lr / (1 - std::pow(config.beta1, k)),
          std::sqrt(1 - std::pow(config.beta2, k))};
}

}  // namespace tandem::exec
