// Rules across fields: what no single field can show. Each message has the arithmetic and the
// nearest working values. Row numbers are those of the constraints table of models.md, 3.4.
#pragma once

#include <set>
#include <string>

#include "common/scenario/scenario.h"

namespace tandem {

// Rules that need a field in `failed` are skipped, so that one fault gives one message.
// `given`: paths with a value other than auto. Errors and warnings go to `problems`.
void validate(const Scenario& scenario, const std::set<std::string>& given,
              const std::set<std::string>& failed, Diagnostics& problems);

// What only `execute` cannot do, such as a precision its kernels lack. Empty: it can run.
[[nodiscard]] Diagnostics check_executable(const Scenario& scenario);

// Ops of the plan, to one significant digit: enough to refuse giants before they are built.
[[nodiscard]] double estimated_plan_ops(const Scenario& scenario);

}  // namespace tandem
