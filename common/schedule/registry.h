// The schedules by name. A new kind is one file under kinds/ and one row in registry.cpp.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/schedule/order.h"

namespace tandem {

// Options by name as the scenario wrote them (schedules.md 2.17), e.g. {"backward", "lifo"}.
using ScheduleOptions = std::map<std::string, std::string>;

[[nodiscard]] std::vector<std::string> schedule_kinds();

// What `tandem schedule` and the scenario's rules say about a kind.
struct ScheduleKind {
  std::string_view name, placement;
  int stages_per_rank;  // fixed; 0: any from `least` on
  int least;
  std::string_view options;  // those it alone understands: "group, overlap, fuse"
  bool splits;               // has I and W: takes first_stage and merge
  int copies;                // of the model
  std::string_view about;    // one line
};
[[nodiscard]] const ScheduleKind* find_schedule(std::string_view name);

[[nodiscard]] bool takes_option(const ScheduleKind& kind, std::string_view option);
// "only gpipe and bfs take it".
[[nodiscard]] std::string option_takers(std::string_view option);

// v where the scenario says auto: what the kind fixes, hanayo 2 * waves, else 2 or 1.
[[nodiscard]] int default_stages_per_rank(std::string_view kind, const ScheduleOptions& options);

// Slices that the kind cuts a sequence in; of kind file those of the order that the scenario keeps.
[[nodiscard]] int num_slices(std::string_view kind, const ScheduleOptions& options);

// Whether a copy of the stage lies on the pipeline rank, by the kind's placement
// (schedules.md 1.3).
[[nodiscard]] bool lies_on(std::string_view kind, const ScheduleOptions& options, int num_ranks,
                           int stage, int rank);

// The order of `kind`, or E-PLAN diagnostics with the arithmetic (Failure::infeasible). Options of
// other kinds are refused by name; those of lowering (receive, ...) are not looked at here.
[[nodiscard]] Result<Order> make_order(const std::string& kind, PipelineShape shape,
                                       const ScheduleOptions& options);

// What holds for the order but not as the kind's closed forms say, e.g. "m=3 is smaller than
// 2p-1=5: ..."; empty: they hold.
[[nodiscard]] std::string schedule_note(const std::string& kind, const PipelineShape& shape);

}  // namespace tandem
