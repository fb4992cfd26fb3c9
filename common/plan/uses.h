// Which op touches which buffer how: the one definition, for lowering and for verification.
#pragma once

#include "common/plan/plan.h"

namespace tandem {

enum class Use { read, write, accumulate };  // accumulate: reads and writes
[[nodiscard]] constexpr bool reads(Use u) { return u != Use::write; }
[[nodiscard]] constexpr bool writes(Use u) { return u != Use::read; }

// Calls f(BufferId, Use) in the order in which an op touches its buffers: call by call, inputs,
// scratch, outputs. An output in place is a read (as input), then a write.
template <class F>
void for_each_use(const Plan& plan, const Op& op, F&& f) {
  switch (op.kind) {
    case OpKind::compute:
      for (const Call& c : plan.calls_of(op)) {
        for (const OperandRef& o : plan.operands_of(c.inputs)) f(o.id, Use::read);
        for (const OperandRef& o : plan.operands_of(c.scratch)) f(o.id, Use::write);
        for (const OperandRef& o : plan.operands_of(c.outputs))
          f(o.id, o.accumulate ? Use::accumulate : Use::write);
      }
      break;
    case OpKind::all_reduce:
    case OpKind::all_gather:
    case OpKind::reduce_scatter:
    case OpKind::all_to_all:
    case OpKind::broadcast:
    case OpKind::shift:
      if (!op.source.valid()) {
        f(op.buffer, Use::accumulate);
        break;
      }
      f(op.source, op.kind == OpKind::reduce_scatter ? Use::accumulate : Use::read);
      for (BufferId rows : {op.send_rows, op.recv_rows})
        if (rows.valid()) f(rows, Use::read);
      f(op.buffer, Use::write);
      break;
    case OpKind::send:
    case OpKind::host_wait:
    case OpKind::post_validate:
      f(op.buffer, Use::read);
      break;
    case OpKind::recv:
    case OpKind::copy:
      f(op.buffer, Use::write);
      break;
  }
}

// The buffer whose memory it is.
[[nodiscard]] inline BufferId root_of(const Plan& plan, BufferId id) {
  const BufferId root = plan.buffer(id).alias_of;
  return root.valid() ? root : id;
}

// By buffer. Passes over all ops look here: a buffer's own entry is two cache lines far away.
[[nodiscard]] inline std::vector<BufferId> roots_of(const Plan& plan) {
  std::vector<BufferId> out(plan.buffers.size());
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = root_of(plan, BufferId{static_cast<std::int64_t>(i)});
  return out;
}

// As for_each_use, but of memory: a view counts as its bucket. A buffer may come more than once.
template <class F>
void for_each_root_use(const Plan& plan, const Op& op, F&& f) {
  for_each_use(plan, op, [&](BufferId b, Use use) { f(root_of(plan, b), use); });
}

template <class F>
void for_each_root_use(const Plan& plan, const std::vector<BufferId>& roots, const Op& op, F&& f) {
  for_each_use(plan, op, [&](BufferId b, Use use) { f(roots[b.index()], use); });
}

}  // namespace tandem
