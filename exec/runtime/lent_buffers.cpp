#include "exec/runtime/lent_buffers.h"

#include <fmt/format.h>

#include <map>
#include <string_view>
#include <utility>

namespace tandem::exec {
namespace {

using Key = std::pair<BufferClass, std::string_view>;

Key key_of(const Plan& plan, const Buffer& b) { return {b.cls, plan.name(b.name)}; }

Error does_not_fit(const Plan& plan, const Buffer& b, const char* what) {
  return make_error(Failure::infeasible, "E-EXEC-035", "the executor cannot run this plan",
                    fmt::format("{} {} of the {}: {}", name_of(b.cls), plan.name(b.name),
                                plan.header.settling ? "settling" : "evaluation", what),
                    "the buffers of the plan that trains",
                    fmt::format("plan.txt and plan_{}.txt are of one scenario: write both again",
                                plan.header.settling ? "settling" : "evaluation"));
}

}  // namespace

Result<std::vector<BufferId>> lent_buffers(const Plan& other, const Plan& training,
                                           ProgramId program) {
  std::map<Key, BufferId> by_name;
  for (BufferId id : training.persistent(program))
    by_name.try_emplace(key_of(training, training.buffer(id)), id);
  std::vector<BufferId> out(other.buffers.size());
  for (const bool views : {false, true})
    for (BufferId id : other.persistent(program)) {
      const Buffer& b = other.buffer(id);
      if (b.alias_of.valid() != views) continue;
      // Settling: they say what lies in the shards.
      if (b.cls == BufferClass::grad_full || b.cls == BufferClass::param_full) continue;
      if (views && !out[b.alias_of.index()].valid()) continue;  // of what a gather makes
      const auto it = by_name.find(key_of(other, b));
      if (it == by_name.end()) return does_not_fit(other, b, "training has none");
      const Buffer& lent = training.buffer(it->second);
      if (lent.dtype != b.dtype || !(lent.shape == b.shape))
        return does_not_fit(other, b, "training has another type or shape");
      if (views != lent.alias_of.valid() || b.alias_offset != lent.alias_offset ||
          (views && out[b.alias_of.index()] != lent.alias_of))
        return does_not_fit(other, b, "training has it at another place");
      if (!views) out[id.index()] = it->second;
    }
  return out;
}

}  // namespace tandem::exec
