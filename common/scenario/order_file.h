// schedule: {kind: file}: the order of computations comes from a file of L1 text (common/schedule/
// parse.h). Not here: whether it has the ranks and microbatches of the scenario (validate.cpp).
#pragma once

#include <optional>
#include <string>

#include "common/base/diagnostic.h"
#include "common/scenario/scenario.h"
#include "common/schedule/order.h"

namespace tandem {

// Nothing, with messages at their line and column, where the file cannot be read, its order cannot
// run (V1, V2, V4), or it is not yet lowered: messages and actions of whole stages, which lowering
// places itself, and ranks with unequal numbers of stages.
[[nodiscard]] std::optional<Order> read_order_file(const std::string& path, Diagnostics& problems);

// A scenario is plain data: it keeps what the file held as L1 text, beside its path, in the options
// of the kind. So the file is read once, and nothing else than the reader opens it.
void keep_order(ScheduleSpec& schedule, const Order& order);
[[nodiscard]] std::optional<Order> kept_order(const ScheduleSpec& schedule);

// Of a placement that gives each rank as many; of two copies those of one.
[[nodiscard]] inline int stages_per_rank(const Order& order) {
  return order.num_stages() / order.num_ranks();
}

}  // namespace tandem
