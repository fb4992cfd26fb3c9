#include "common/plan/live_bytes.h"

#include <algorithm>

namespace tandem {

Bytes total_bytes(const ClassBytes& bytes) {
  Bytes total = 0;
  for (Bytes b : bytes) total += b;
  return total;
}

void raise_to(ClassBytes& most, const ClassBytes& bytes) {
  for (std::size_t c = 0; c < most.size(); ++c) most[c] = std::max(most[c], bytes[c]);
}

void add_bytes(const Plan& plan, std::span<const BufferId> buffers, int sign, ClassBytes& live,
               const RunTimeRows* rows) {
  for (BufferId id : buffers) {
    const Buffer& b = plan.buffer(id);
    Bytes bytes = Plan::own_bytes(b);
    if (rows && b.rows_of.valid())
      if (const auto seen = rows->find(b.rows_of); seen != rows->end())
        bytes = seen->second * b.row_bytes();
    live[static_cast<std::size_t>(b.cls)] += sign * bytes;
  }
}

bool has_run_time_rows(const Plan& plan) {
  return std::any_of(plan.buffers.begin(), plan.buffers.end(),
                     [](const Buffer& b) { return b.rows_of.valid(); });
}

PeakBytes peak_with_rows(const Plan& plan, ProgramId program, const ClassBytes& persistent,
                         const RunTimeRows& rows) {
  PeakBytes out{total_bytes(persistent), persistent, persistent, OpId{}};
  for_each_live(plan, program, persistent, &rows, [&](OpId id, const ClassBytes& live) {
    raise_to(out.by_class, live);
    if (const Bytes total = total_bytes(live); total > out.total)
      out.total = total, out.at_peak = live, out.op = id;
  });
  return out;
}

std::vector<ClassBytes> persistent_bytes(const Plan& plan) {
  std::vector<bool> allocated(plan.buffers.size(), false);
  for (const Op& op : plan.ops)
    for (BufferId b : plan.allocates_of(op)) allocated[b.index()] = true;
  std::vector<ClassBytes> out(plan.programs.size(), ClassBytes{});
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (!allocated[i] && b.program.valid())
      out[b.program.index()][static_cast<std::size_t>(b.cls)] += Plan::own_bytes(b);
  }
  return out;
}

}  // namespace tandem
