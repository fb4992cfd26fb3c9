// A schedule as a picture: a lane a rank, a box a stage visit, idle time hatched, and under each
// lane the visits that the rank holds. SVG text that stands alone. Deterministic; text is escaped.
#pragma once

#include <cstdint>
#include <string>

#include "common/schedule/evaluate.h"
#include "common/schedule/order.h"

namespace tandem {

struct ScheduleSvgOptions {
  std::string title, subtitle;  // subtitle may be empty
  double unit = 1;              // ScheduleTimes that make up 1 on the axis
};

// More computing actions are no picture that a person can read.
inline constexpr std::size_t kSvgActions = 20'000;

// `times`: evaluate() of `order`, with a makespan above 0.
[[nodiscard]] std::string schedule_svg(const Order& order, const ScheduleTimes& times,
                                       const ScheduleSvgOptions& options);

}  // namespace tandem
