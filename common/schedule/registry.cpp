#include "common/schedule/registry.h"

#include <array>
#include <string_view>

#include "common/schedule/kinds/kinds.h"

namespace tandem {
namespace {

struct Row {
  std::string_view name;
  Result<Order> (*make)(const PipelineShape&, const ScheduleOptions&);
  int fixed_stages_per_rank;  // 0: any
};
constexpr std::array<Row, 2> kKinds = {{
    {"gpipe", gpipe, 1},
    {"1f1b", one_f_one_b, 1},
}};

}  // namespace

std::vector<std::string> schedule_kinds() {
  std::vector<std::string> names;
  for (const Row& row : kKinds) names.emplace_back(row.name);
  return names;
}

Error schedule_error(const std::string& kind, const std::string& fact, const std::string& found,
                     const std::string& expected, const std::string& hint) {
  return make_error(Failure::infeasible, "E-PLAN-001", "sched/" + kind + ": " + fact, found,
                    expected, hint);
}

Order linear_order(const PipelineShape& shape) {
  Order order;
  order.num_microbatches = shape.num_microbatches;
  for (int s = 0; s < shape.num_ranks; ++s) order.stage_rank.push_back(s);
  order.ranks.resize(static_cast<std::size_t>(shape.num_ranks));
  return order;
}

Result<Order> make_order(const std::string& kind, const PipelineShape& shape,
                         const ScheduleOptions& options) {
  if (shape.num_ranks < 1 || shape.num_microbatches < 1 || shape.stages_per_rank < 1) {
    const std::string got = "p=" + std::to_string(shape.num_ranks) +
                            " m=" + std::to_string(shape.num_microbatches) +
                            " v=" + std::to_string(shape.stages_per_rank);
    return schedule_error(kind, "p, m and v must be >= 1 (got " + got + ")", got, ">= 1",
                          "use at least one rank, one microbatch and one stage a rank");
  }
  for (const Row& row : kKinds) {
    if (row.name != kind) continue;
    if (row.fixed_stages_per_rank && shape.stages_per_rank != row.fixed_stages_per_rank) {
      const std::string v = std::to_string(shape.stages_per_rank);
      return schedule_error(kind,
                            "this schedule fixes v=" + std::to_string(row.fixed_stages_per_rank) +
                                " (got v=" + v + ")",
                            "v=" + v, "v=" + std::to_string(row.fixed_stages_per_rank),
                            "drop schedule.stages_per_rank");
    }
    return row.make(shape, options);
  }
  std::string names;
  for (const Row& row : kKinds) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return schedule_error(kind, "no such schedule in this version", kind, "one of " + names,
                        "write schedule: 1f1b");
}

}  // namespace tandem
