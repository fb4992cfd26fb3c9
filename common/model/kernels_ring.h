// The catalogue's entries of ring attention (is_ring of kernels.h, which states their operands):
// the part of signature(), cost(), hidden_scratch() and broken_rule() that is theirs. Pure and
// thread-safe.
#pragma once

#include "common/model/kernels.h"

namespace tandem {

[[nodiscard]] std::string_view broken_ring_rule(const Kernel& k);
[[nodiscard]] Signature ring_signature(const Kernel& k, PlanTypes types);
[[nodiscard]] KernelCost ring_cost(const Kernel& k, PlanTypes types);
[[nodiscard]] Bytes ring_hidden_scratch(const Kernel& k, PlanTypes types);

}  // namespace tandem
