// Live bytes of a program by class, walked in issue order: the one walk behind verification's V8
// and the simulator's memory.
//
//   after the issue of op i = persistent + sum over j <= i of allocates - sum over j < i of frees
//
// An alias adds nothing. Why this is the greatest amount at that point in any run: plan.h, "Life of
// a buffer".
#pragma once

#include <map>
#include <span>
#include <utility>
#include <vector>

#include "common/plan/plan.h"

namespace tandem {

[[nodiscard]] Bytes total_bytes(const ClassBytes& bytes);

// Each class's maximum of both.
void raise_to(ClassBytes& most, const ClassBytes& bytes);

// Rows of a step whose number is known only at run time, by the buffer that counts them.
using RunTimeRows = std::map<BufferId, std::int64_t>;

// Bytes of a list of buffers by class, added with the sign to `live`: with these rows in the place
// of the balanced ones, where there are any. Rows that are not named are balanced.
void add_bytes(const Plan& plan, std::span<const BufferId> buffers, int sign, ClassBytes& live,
               const RunTimeRows* rows = nullptr);

// By program: the buffers that no op allocates.
[[nodiscard]] std::vector<ClassBytes> persistent_bytes(const Plan& plan);

// Calls f(OpId, const ClassBytes& live) after the issue of each op: what it allocates counts, what
// it frees counts still. `rows`: as add_bytes().
template <class F>
void for_each_live(const Plan& plan, ProgramId program, const ClassBytes& persistent,
                   const RunTimeRows* rows, F&& f) {
  ClassBytes live = persistent;
  std::int64_t id = plan.programs[program.index()].first_op;
  for (const Op& op : plan.ops_of(program)) {
    add_bytes(plan, plan.allocates_of(op), 1, live, rows);
    f(OpId{id++}, std::as_const(live));
    add_bytes(plan, plan.frees_of(op), -1, live, rows);
  }
}
template <class F>
void for_each_live(const Plan& plan, ProgramId program, const ClassBytes& persistent, F&& f) {
  for_each_live(plan, program, persistent, nullptr, std::forward<F>(f));
}

struct PeakBytes {
  Bytes total = 0;
  ClassBytes by_class{}, at_peak{};  // each class's own peak; all classes at the total's
  OpId op;                           // invalid: what lives for the run
};
// The peak of a step with these rows in the place of the balanced ones; rows that are not named are
// balanced.
[[nodiscard]] PeakBytes peak_with_rows(const Plan& plan, ProgramId program,
                                       const ClassBytes& persistent, const RunTimeRows& rows);
[[nodiscard]] bool has_run_time_rows(const Plan& plan);

}  // namespace tandem
