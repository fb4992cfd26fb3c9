// The style sheet and script of the HTML report, compiled in from common/report/page.
#pragma once

#include <string_view>

namespace tandem {

extern const std::string_view kReportCss;
extern const std::string_view kReportJs;

}  // namespace tandem
