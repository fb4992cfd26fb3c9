// Reads the canonical text of a plan and the freer forms of docs/plan_reference.md (comments,
// any blanks). Checks form only: every id in range, ids dense, kernels known, counts bounded.
// Meaning is verify's (common/plan/verify).
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/plan/plan.h"

namespace tandem {

// `file` is for messages. At most 100 diagnostics, E-PLAN codes, Failure::bad_input.
[[nodiscard]] Result<Plan> parse_plan(std::string_view text, const std::string& file);

}  // namespace tandem
