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

void add_bytes(const Plan& plan, std::span<const BufferId> buffers, int sign, ClassBytes& live) {
  for (BufferId id : buffers) {
    const Buffer& b = plan.buffer(id);
    live[static_cast<std::size_t>(b.cls)] += sign * Plan::own_bytes(b);
  }
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
