#include "common/plan/labels.h"

#include <fmt/format.h>

#include "common/base/rng.h"

namespace tandem {

std::string_view phase_name(Phase p) {
  constexpr std::string_view kNames[] = {"F", "I", "W", "B", "R", "O", "D"};
  return kNames[static_cast<std::size_t>(p)];
}

std::string_view part_name(Part p) {
  constexpr std::string_view kNames[] = {"", "warm_up", "steady", "cool_down"};
  return kNames[static_cast<std::size_t>(p)];
}

const std::string& stream_name(const Plan& plan, StreamId stream) {
  return stream.valid() && stream.index() < plan.streams.size() ? plan.streams[stream.index()]
                                                                : plan.names[0];
}

const std::string& communicator_name(const Plan& plan, CommId comm) {
  return comm.valid() && comm.index() < plan.communicators.size()
             ? plan.name(plan.communicators[comm.index()].name)
             : plan.names[0];
}

Bytes op_bytes(const Op& op) {
  return op.kind == OpKind::compute || holds_host(op.kind) ? 0 : Plan::bytes_in(op);
}

std::string op_label(const Plan& plan, OpId id) {
  const Op& op = plan.op(id);
  std::string text;
  if (op.kind == OpKind::compute) {
    text = phase_name(op.phase);
  } else {
    text = name_of(op.kind);
    const std::string& comm = communicator_name(plan, op.comm);
    if (!comm.empty()) text += " " + comm;
    if (op.tag != 0) text += " " + plan.name(op.tag);
  }
  if (op.microbatch >= 0) text += fmt::format(" mb{}", op.microbatch);
  if (op.seq_slice >= 0) text += fmt::format(".s{}", op.seq_slice);
  if (op.layer >= 0 && op.kind == OpKind::compute) text += fmt::format(" l{}", op.layer);
  return text;
}

std::string op_label_with_id(const Plan& plan, OpId id) {
  return fmt::format("op {}: {}", id.value, op_label(plan, id));
}

std::string call_label(const Plan& plan, OpId id, int call) {
  return to_text(plan.kernel(plan.calls_of(plan.op(id))[static_cast<std::size_t>(call)].kernel));
}

std::uint64_t MeetingIds::of(OpId id, int rank, int step) {
  const Op& op = plan_.op(id);
  const auto [known, added] = first_member_.try_emplace({op.comm, rank}, rank);
  if (added) {
    const std::vector<Rank> group = plan_.members(op.comm, Rank{rank});
    if (!group.empty()) known->second = group.front().value;
  }
  // Members that run one program share the op; others share the match id.
  return fnv1a64(fmt::format("meeting {} {} {} {}", op.comm.value,
                             op.match >= 0 ? op.match : ~id.value, step, known->second)) |
         1;
}

}  // namespace tandem
