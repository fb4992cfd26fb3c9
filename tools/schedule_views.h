// What `tandem schedule` prints about an evaluated order: clocks, bubbles, ranks, memory. Pure.
//
//   bubble       clock - ideal; ratios say their divisor (schedules.md 1.5)
//   held         visits: F until W, and F until I (1.6); v visits (k slices of v) are one
//                microbatch on a whole rank
//   transfers    messages between ranks in a step, activations and gradients (1.3)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/schedule/evaluate.h"
#include "common/schedule/order.h"
#include "tools/context.h"

namespace tandem::tools {

struct EvaluatedSchedule {
  std::string kind;  // "file" for one that was read
  Order order;
  ScheduleCosts costs;
  ScheduleTimes times;
  std::int64_t unit = 1;  // times that make up 1 of the user's unit
  std::vector<std::string> notes;
};

[[nodiscard]] std::int64_t num_transfers(const Order& order);
[[nodiscard]] std::int64_t num_computing(const Order& order);

// Makespan, span, ideal, bubbles, idle, peaks: the keys of docs/cli.md.
void add_json(const EvaluatedSchedule& s, Json& out);
[[nodiscard]] std::string summary_text(const EvaluatedSchedule& s);

// "1f1b: makespan 33, bubble 9 (27.3 %)": titles of a picture.
[[nodiscard]] std::string svg_title(const EvaluatedSchedule& s);
[[nodiscard]] std::string svg_subtitle(const EvaluatedSchedule& s);

// One row of the table of all kinds; `refusal` where the kind has no such order.
struct KindRow {
  std::string kind, refusal;
  EvaluatedSchedule schedule;
};
// `s.unit` of each: of a microbatch's work on a whole rank, so that the rows compare.
[[nodiscard]] std::string table_text(const std::vector<KindRow>& rows);
[[nodiscard]] Json table_json(const std::vector<KindRow>& rows);

}  // namespace tandem::tools
