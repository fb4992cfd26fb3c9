// rehearsal.json: how long each op of each rank takes in a rehearsal (exec/device/rehearsal.h).
// Written beside plan.txt by whoever knows durations - the tools take them from the simulator - and
// read by the ranks, which know no cost model. Nothing in it says when an op starts. Bytes:
// docs/formats/rehearsal.md. Plain data.
//
//   compute, copy    from the start of the op to its end
//   communication    from the moment when all partners are there to its end at this rank
//   host_wait        0: it takes as long as what it waits for
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/base/units.h"
#include "common/plan/plan.h"

namespace tandem {

// A day: a longer op is a scale gone wrong.
inline constexpr Nanoseconds kLongestRehearsedOp = 86'400'000'000'000;

struct RehearsalTable {
  std::string plan_id;
  double time_scale = 1;  // what the durations have been multiplied with, for readers
  // Ranks with equal durations share a table.
  std::vector<int> table_of_rank;
  std::vector<std::vector<Nanoseconds>> tables;  // by op of the rank's program

  [[nodiscard]] const std::vector<Nanoseconds>& of(Rank rank) const {
    return tables[static_cast<std::size_t>(table_of_rank[rank.index()])];
  }
};

// `by_rank`: of each rank of the plan, a duration for each op of its program.
[[nodiscard]] RehearsalTable rehearsal_table(std::string plan_id, double time_scale,
                                             std::vector<std::vector<Nanoseconds>> by_rank);

[[nodiscard]] std::string to_json(const RehearsalTable& table);
// `plan_id`: of `plan`. E-EXEC-061: not such a table, of another plan, another number of ranks or
// ops, or a duration outside 0 .. kLongestRehearsedOp.
[[nodiscard]] Result<RehearsalTable> rehearsal_from_json(const std::string& text,
                                                         const std::string& file, const Plan& plan,
                                                         const std::string& plan_id);

}  // namespace tandem
