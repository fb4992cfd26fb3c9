// Timelines as one CSV table for spreadsheets and scripts; reads back exactly. The first column
// says what a row is (span, call, memory, step, peak, meta); cells that a row does not use are
// empty. Times are whole ticks: the header says _ps or _ns. docs/formats/timeline.md lists columns.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/timeline/timeline.h"

namespace tandem {

[[nodiscard]] Status write_csv_timeline(const Timeline& timeline, const Plan& plan,
                                        const std::string& path);
[[nodiscard]] std::string encode_csv_timeline(const Timeline& timeline, const Plan& plan);

// E-TIME-002, -003 with line and column.
[[nodiscard]] Result<Timeline> decode_csv_timeline(std::string_view bytes, const std::string& file);

}  // namespace tandem
