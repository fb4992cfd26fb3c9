#include "sim/memory/tracker.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/plan/live_bytes.h"
#include "common/plan/print.h"

namespace tandem::sim {
namespace {

Bytes hidden_of(const Plan& plan, const Op& op, const RunTimeRows* rows) {
  Bytes most = 0;
  for (const Call& c : plan.calls_of(op)) {
    Kernel k = plan.kernel(c.kernel);
    if (rows && catalogue(k.kind).dims[0] == "rows")
      for (const OperandRef& operand : plan.operands_of(c.inputs))
        if (const auto seen = rows->find(operand.id); seen != rows->end())
          k.dims[0] = std::max<std::int64_t>(1, seen->second);
    most = std::max(most, hidden_scratch(k, plan.header.types));
  }
  return most;
}

ProgramMemory track(const Plan& plan, ProgramId program, const ClassBytes& persistent,
                    const RunTimeRows* rows) {
  ProgramMemory out;
  out.persistent = persistent;
  out.peak.by_class = out.peak.at_peak = persistent;
  out.peak.total = out.needed = total_bytes(persistent);
  out.at_needed = persistent;
  for_each_live(plan, program, persistent, rows, [&](OpId id, const ClassBytes& live) {
    const Bytes total = total_bytes(live);
    raise_to(out.peak.by_class, live);
    if (total > out.peak.total) {
      out.peak.total = total;
      out.peak.at_peak = live;
      out.peak.op_at_peak = id;
    }
    const Bytes hidden = hidden_of(plan, plan.op(id), rows);
    out.kernel_scratch = std::max(out.kernel_scratch, hidden);
    if (total + hidden > out.needed) {
      out.needed = total + hidden;
      out.op_needed = id;
      out.at_needed = live;
      out.at_needed[static_cast<std::size_t>(BufferClass::scratch)] += hidden;
    }
  });
  return out;
}

}  // namespace

std::vector<ProgramMemory> track_memory(const Plan& plan) {
  const std::vector<ClassBytes> persistent = persistent_bytes(plan);
  std::vector<ProgramMemory> out;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    out.push_back(track(plan, ProgramId{static_cast<int>(p)}, persistent[p], nullptr));
  return out;
}

ProgramMemory track_memory(const Plan& plan, ProgramId program,
                           std::span<const RunTimeRows* const> steps) {
  const ClassBytes persistent = persistent_bytes(plan)[program.index()];
  ProgramMemory out;
  bool first = true;
  for (const RunTimeRows* rows : steps) {
    const ProgramMemory step = track(plan, program, persistent, rows);
    if (first) {
      out = step;
      first = false;
      continue;
    }
    raise_to(out.peak.by_class, step.peak.by_class);
    if (step.peak.total > out.peak.total) {
      out.peak.total = step.peak.total;
      out.peak.at_peak = step.peak.at_peak;
      out.peak.op_at_peak = step.peak.op_at_peak;
    }
    out.kernel_scratch = std::max(out.kernel_scratch, step.kernel_scratch);
    if (step.needed > out.needed)
      out.needed = step.needed, out.op_needed = step.op_needed, out.at_needed = step.at_needed;
  }
  return out;
}

Error over_capacity(const Plan& plan, const ProgramMemory& memory, Rank rank, Bytes capacity,
                    Picoseconds time) {
  // The classes at the peak, the largest first; on one line, as every value of a message.
  std::vector<std::pair<Bytes, int>> order;
  for (int c = 0; c < kNumBufferClasses; ++c)
    if (const Bytes b = memory.at_needed[static_cast<std::size_t>(c)]; b > 0)
      order.push_back({-b, c});
  std::sort(order.begin(), order.end());
  std::string table;
  for (const auto& [bytes, c] : order)
    table += fmt::format("{}{} {} B ({:.1f} %)", table.empty() ? "" : ", ",
                         name_of(static_cast<BufferClass>(c)), -bytes,
                         -100.0 * static_cast<double>(bytes) / static_cast<double>(memory.needed));
  const std::string at = memory.op_needed.valid()
                             ? fmt::format("{}, issued {:.6f} s into the step",
                                           describe(plan, memory.op_needed), ps_to_seconds(time))
                             : "before the first op";
  return make_error(
      Failure::infeasible, "E-PLAN-080", "the plan needs more memory than a device has",
      fmt::format("rank {} needs {} B at {}: {}", rank.value, memory.needed, at, table),
      fmt::format("at most {} B (cluster.device.memory)", capacity),
      "raise tp or pp, lower micro_batch, or use a device with more memory");
}

}  // namespace tandem::sim
