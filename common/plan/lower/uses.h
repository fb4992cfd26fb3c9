// Which buffers an op reads and writes; aliases count as their bucket.
#pragma once

#include "common/plan/plan.h"

namespace tandem::lower {

// Calls use(root buffer, writes) for every operand of `op`. A buffer may come more than once. An
// accumulating or in-place output counts as a write.
template <class Use>
void for_each_use(const Plan& plan, const Op& op, Use&& use) {
  const auto root = [&](BufferId id) {
    const BufferId alias = plan.buffer(id).alias_of;
    return alias.valid() ? alias : id;
  };
  for (const Call& c : plan.calls_of(op)) {
    for (const OperandRef& o : plan.operands_of(c.inputs)) use(root(o.id), false);
    for (const OperandRef& o : plan.operands_of(c.outputs)) use(root(o.id), true);
    for (const OperandRef& o : plan.operands_of(c.scratch)) use(root(o.id), true);
  }
  if (op.buffer.valid())
    use(root(op.buffer), op.kind != OpKind::send && op.kind != OpKind::host_wait);
}

// Buffers that live for the whole run, whoever uses them.
[[nodiscard]] constexpr bool lives_for_the_run(BufferClass c) {
  return c == BufferClass::param || c == BufferClass::grad || c == BufferClass::optim;
}

}  // namespace tandem::lower
