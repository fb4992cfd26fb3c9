// L1 text: rows of cells, one row a rank; a superset of PyTorch's pipeline CSV (schedules.md 3).
#pragma once

#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "common/schedule/evaluate.h"
#include "common/schedule/order.h"

namespace tandem {

// "0F1", "1SEND_B0", "0REDUCE_GRAD", "0F1.s0@d1": the slice where it is not 0, or with `slices`;
// the direction where it is not 0. An idle cell is empty.
[[nodiscard]] std::string to_text(const Action& action, bool slices = false);

// The cell of `list` that begins at `i`: an action, or "(0F1;2B0)OVERLAP_F_B".
[[nodiscard]] std::string cell_text(const RankOrder& list, std::size_t i, bool slices = false);

// Rows joined by "," and ended by LF; no header: rank k is row k.
[[nodiscard]] std::string to_text(const Order& order);

// The same behind a header line "#tandem order v1 p=2 stages=4 ...", which a file of placement
// other than its rows show, or of idle ends, needs. `gen`: what made it, without spaces; may be
// empty.
[[nodiscard]] std::string to_file(const Order& order, const std::string& gen = "");

// What PyTorch's _load_csv reads: rows alone. E-PLAN-005 for slices and directions, which it does
// not have.
[[nodiscard]] Result<std::string> to_torch(const Order& order);

// Rows are cells of the lists (not time), columns are ranks (schedules.md 3.5). The row of the
// action at `mark` of rank `mark_rank` gets "<-- ERROR HERE", and only ten rows around it are
// shown; at most 16 ranks. mark < 0: none.
[[nodiscard]] std::string grid(const Order& order, int mark_rank = -1, int mark = -1);

// The time x rank picture of the order: a row a rank, a column for each `slot` of time, "." where
// it idles. An action stands in its first column, "-" in the others; parts of a fused cell share
// its columns. All times must be multiples of `slot`, as they are of time_slot(): their greatest
// common divisor, 0 where all are 0.
[[nodiscard]] std::string time_grid(const Order& order, const ScheduleTimes& times,
                                    std::int64_t slot);
[[nodiscard]] std::int64_t time_slot(const ScheduleTimes& times);

// The same with unit costs (B too; a fused cell takes a slot for each
// part) and free communication.
[[nodiscard]] std::string time_grid(const Order& order);

}  // namespace tandem
