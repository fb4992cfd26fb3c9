// Pictures as SVG text: the waterfall of a comparison, and two timelines for a README.
// Deterministic; all text is escaped.
#pragma once

#include <string>

#include "common/report/compare.h"

namespace tandem {

// Bars from 0 to the difference of the step, largest part first. Colours come from the page's
// style sheet (classes more, less, total).
[[nodiscard]] std::string waterfall_svg(const Comparison& c);

struct TimelineSvgOptions {
  int width = 960;
  int max_ranks = 8;
  std::string title;
};
// Predicted above measured for every rank; the compute stream by phase, communication as a thin
// strip under it. Stands alone: own colours, a background, legible on light and dark pages.
// `measured` may be null.
[[nodiscard]] std::string timeline_svg(const Plan& plan, const Timeline& predicted,
                                       const Timeline* measured, int predicted_step,
                                       int measured_step, const TimelineSvgOptions& options = {});

}  // namespace tandem
