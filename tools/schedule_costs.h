// Costs of `tandem schedule`: decimals of the command line or of a file, as the integers that
// schedules are computed with. Pure but for reading the file.
//
//   F, I, W   of one visit of a stage, in a unit of the user's; 1 each unless given
//   B         of a whole backward: I + W unless given. Without I and W it is cut into halves; with
//             one of them the other is what is left
//   FB        of a fused cell: max(F, B) <= FB <= F + B; unless given, the sum of its parts
//   hop       from the end of an action to a reader on another rank
//   unit      1 of the user's unit in costs: the common denominator of all decimals
//   Source    schedules.md 1.1, 1.2.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/schedule/evaluate.h"

namespace tandem::tools {

struct UserCosts {
  ScheduleCosts costs;
  std::int64_t unit = 1;
  bool gives_cell = false;  // FB
};

// `cost`: "F=1,I=1,W=1,FB=2.5", empty for the defaults. `file`: a table with a stage a row, empty
// for none; not both. Each number has at most six digits before and six behind the point, so that
// no sum over kOrderActions of them leaves 63 bits. Errors: usage (E-CLI-004, -005) and
// E-SCHED-001.
[[nodiscard]] Result<UserCosts> read_costs(const std::string& cost, const std::string& file,
                                           const std::string& hop);

// The table: first line "stage,F,I,W", then one line for each stage from 0. `file`: for messages.
[[nodiscard]] Result<UserCosts> parse_cost_table(std::string_view text, const std::string& file,
                                                 const std::string& hop);

// "27", "2.5", "-": a time in the user's unit, at most six decimals without zeros at the end.
[[nodiscard]] std::string in_unit(std::int64_t time, std::int64_t unit);

}  // namespace tandem::tools
