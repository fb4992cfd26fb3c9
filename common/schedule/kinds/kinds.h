// One declaration per generator; the rule stands in the file of the same name.
#pragma once

#include "common/base/result.h"
#include "common/schedule/order.h"
#include "common/schedule/registry.h"

namespace tandem {

[[nodiscard]] Result<Order> gpipe(const PipelineShape& shape, const ScheduleOptions& options);
[[nodiscard]] Result<Order> one_f_one_b(const PipelineShape& shape, const ScheduleOptions& options);

// Stage s on rank s: the placement of the kinds with one stage a rank.
[[nodiscard]] Order linear_order(const PipelineShape& shape);

// The title is schedules.md's `sched/<kind>: ...`.
[[nodiscard]] Error schedule_error(const std::string& kind, const std::string& fact,
                                   const std::string& found, const std::string& expected,
                                   const std::string& hint);

}  // namespace tandem
