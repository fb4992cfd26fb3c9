// L1 text: rows of cells, one row a rank; a superset of PyTorch's pipeline CSV (schedules.md 3).
#pragma once

#include <string>

#include "common/schedule/order.h"

namespace tandem {

// "0F1", "1SEND_B0", "0REDUCE_GRAD".
[[nodiscard]] std::string to_text(const Action& action);

// Rows joined by "," and ended by LF; no header: rank k is row k.
[[nodiscard]] std::string to_text(const Order& order);

// Rows are list positions (not time), columns are ranks (schedules.md 3.5). `mark_row` >= 0 gets
// "<-- ERROR HERE" and only ten rows around it are shown; at most 16 ranks.
[[nodiscard]] std::string grid(const Order& order, int mark_row = -1);

// The step x rank picture of the order with unit costs and free communication: a row a rank, a
// column a slot, "." where it idles. What `tandem plan --grid` shows.
[[nodiscard]] std::string time_grid(const Order& order);

}  // namespace tandem
