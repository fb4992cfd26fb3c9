// The catalogue's entries of latent attention (is_mla of kernels.h, which states their operands):
// the part of signature(), cost() and broken_rule() that is theirs. They take no hidden scratch.
// Pure and thread-safe.
#pragma once

#include "common/model/kernels.h"

namespace tandem {

[[nodiscard]] std::string_view broken_mla_rule(const Kernel& k);
[[nodiscard]] Signature mla_signature(const Kernel& k, PlanTypes types);
[[nodiscard]] KernelCost mla_cost(const Kernel& k, PlanTypes types);

}  // namespace tandem
