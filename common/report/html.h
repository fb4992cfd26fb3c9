// The report: one self-contained HTML file. Opens from disk without a network; its content policy
// forbids to load anything. Same input, same bytes: no clock, no machine name is put in.
//
//   Top       the answer in plain words, then the main numbers
//   Waterfall where the difference of the step comes from (SVG, works without scripts)
//   Timelines predicted above measured, rank by rank; zoom, pan, tooltips (page/report.js)
//   Memory    live bytes by class over the step
//   Tables    worst ops, order, communicators, memory by class, settings, versions
// The timelines hold the compared step only, and at most kReportSpans spans of each side: of more
// ranks the first that fit are drawn, and the page says so. Tables always cover all ranks.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/report/compare.h"

namespace tandem {

inline constexpr std::size_t kReportSpans = 120'000;  // a page of 10 MB; draws in a few ms

struct ReportInput {
  std::string title;  // the scenario's name
  const Plan* plan = nullptr;
  const Timeline* predicted = nullptr;
  const Timeline* measured = nullptr;      // null: a prediction alone
  const Comparison* comparison = nullptr;  // null where `measured` is
  // Shown as a table, in this order: field and value. Any text.
  std::vector<std::pair<std::string, std::string>> settings;
};

[[nodiscard]] std::string html_report(const ReportInput& in);

}  // namespace tandem
