// The schedules by name. A new kind is one file under kinds/ and one row in registry.cpp.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/schedule/order.h"

namespace tandem {

// Options by name as the scenario wrote them (schedules.md 2.17), e.g. {"backward", "lifo"}.
using ScheduleOptions = std::map<std::string, std::string>;

[[nodiscard]] std::vector<std::string> schedule_kinds();

// The order of `kind`, or E-PLAN diagnostics with the arithmetic (Failure::infeasible).
[[nodiscard]] Result<Order> make_order(const std::string& kind, const PipelineShape& shape,
                                       const ScheduleOptions& options);

}  // namespace tandem
