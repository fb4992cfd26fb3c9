// The part of the kernel catalogue that belongs to experts (kinds from kFirstMoeKernel on): what
// kernels.cpp hands on. Not for others: they call signature(), cost(), hidden_scratch() and
// broken_rule() of kernels.h, which state the conventions.
#pragma once

#include "common/model/kernels.h"

namespace tandem {

[[nodiscard]] Signature moe_signature(const Kernel& k, PlanTypes types);
[[nodiscard]] KernelCost moe_cost(const Kernel& k, PlanTypes types, bool accumulates);
[[nodiscard]] Bytes moe_hidden_scratch(const Kernel& k);
[[nodiscard]] std::string_view broken_moe_rule(const Kernel& k);

}  // namespace tandem
