#include "sim/memory/tracker.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/plan/print.h"

namespace tandem::sim {
namespace {

Bytes sum(const ClassBytes& bytes) {
  Bytes total = 0;
  for (Bytes b : bytes) total += b;
  return total;
}

Bytes hidden_of(const Plan& plan, const Op& op) {
  Bytes most = 0;
  for (const Call& c : plan.calls_of(op))
    most = std::max(most, hidden_scratch(plan.kernel(c.kernel), plan.header.types));
  return most;
}

ProgramMemory track(const Plan& plan, ProgramId program, ClassBytes live) {
  ProgramMemory out;
  out.persistent = live;
  out.peak.by_class = out.peak.at_peak = live;
  out.peak.total = out.needed = sum(live);
  out.at_needed = live;
  Bytes total = out.peak.total;
  std::int64_t id = plan.programs[program.index()].first_op;
  for (const Op& op : plan.ops_of(program)) {
    if (op.allocates.count) {
      add_bytes(plan, plan.allocates_of(op), 1, live);
      total = sum(live);
      for (std::size_t c = 0; c < live.size(); ++c)
        out.peak.by_class[c] = std::max(out.peak.by_class[c], live[c]);
      if (total > out.peak.total) {
        out.peak.total = total;
        out.peak.at_peak = live;
        out.peak.op_at_peak = OpId{id};
      }
    }
    const Bytes hidden = hidden_of(plan, op);
    out.kernel_scratch = std::max(out.kernel_scratch, hidden);
    if (total + hidden > out.needed) {
      out.needed = total + hidden;
      out.op_needed = OpId{id};
      out.at_needed = live;
      out.at_needed[static_cast<std::size_t>(BufferClass::scratch)] += hidden;
    }
    if (op.frees.count) {
      add_bytes(plan, plan.frees_of(op), -1, live);
      total = sum(live);
    }
    ++id;
  }
  return out;
}

}  // namespace

void add_bytes(const Plan& plan, std::span<const BufferId> buffers, int sign, ClassBytes& live) {
  for (BufferId id : buffers) {
    const Buffer& b = plan.buffer(id);
    live[static_cast<std::size_t>(b.cls)] += sign * Plan::own_bytes(b);
  }
}

std::vector<ProgramMemory> track_memory(const Plan& plan) {
  std::vector<bool> allocated(plan.buffers.size(), false);
  for (const Op& op : plan.ops)
    for (BufferId b : plan.allocates_of(op)) allocated[b.index()] = true;
  std::vector<ClassBytes> persistent(plan.programs.size(), ClassBytes{});
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (!allocated[i] && b.program.valid())
      persistent[b.program.index()][static_cast<std::size_t>(b.cls)] += Plan::own_bytes(b);
  }
  std::vector<ProgramMemory> out;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    out.push_back(track(plan, ProgramId{static_cast<int>(p)}, persistent[p]));
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
