// Kernels of W: they make gradients of weights, and nothing that another stage waits for
// (schedules.md 1.2). Pure.
#pragma once

#include "common/model/kernels.h"

namespace tandem {

[[nodiscard]] constexpr bool makes_only_weight_gradients(KernelKind kind) {
  switch (kind) {
    case KernelKind::linear_bwd_weight:
    case KernelKind::bias_residual_bwd_weight:
    case KernelKind::embed_bwd_weight:
    case KernelKind::pos_add_bwd_weight:
    case KernelKind::router_bwd_weight:
    case KernelKind::experts_linear_bwd_weight:
      return true;
    default:
      return false;
  }
}

}  // namespace tandem
