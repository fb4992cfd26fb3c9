// Timelines as Chrome JSON trace events, for chrome://tracing and other viewers. Not read back:
// it holds whole ns. Rules of the format: docs/formats/timeline.md.
#pragma once

#include <string>

#include "common/base/result.h"
#include "common/timeline/timeline.h"

namespace tandem {

[[nodiscard]] Status write_chrome_json(const Timeline& timeline, const Plan& plan,
                                       const std::string& path);
[[nodiscard]] std::string encode_chrome_json(const Timeline& timeline, const Plan& plan);

}  // namespace tandem
