// Canonical text of a plan: one op a line. parse(print(plan)) == plan, print(parse(t)) == t for
// canonical t; the SHA-256 of the text is the plan's id. Grammar: docs/plan_reference.md.
#pragma once

#include <string>

#include "common/plan/plan.h"

namespace tandem {

[[nodiscard]] std::string print(const Plan& plan);

// First 16 hex digits of SHA-256 of print(plan).
[[nodiscard]] std::string plan_id(const Plan& plan);
[[nodiscard]] std::string plan_id_of_text(std::string_view canonical_text);

// The op's line without the leading id: for messages ("rank 2, step 4, op 117 recv ...").
[[nodiscard]] std::string describe(const Plan& plan, OpId id);

}  // namespace tandem
