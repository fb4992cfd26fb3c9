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
  return make_error(
      Failure::infeasible, "E-EXEC-035", "the executor cannot run this plan",
      fmt::format("{} {} of the evaluation: {}", name_of(b.cls), plan.name(b.name), what),
      "the buffers of the plan that trains",
      "plan.txt and plan_evaluation.txt are of one scenario: write both again");
}

}  // namespace

Result<std::vector<BufferId>> lent_buffers(const Plan& evaluation, const Plan& training,
                                           ProgramId program) {
  std::map<Key, BufferId> by_name;
  for (BufferId id : training.persistent(program))
    by_name.try_emplace(key_of(training, training.buffer(id)), id);
  std::vector<BufferId> out(evaluation.buffers.size());
  for (const bool views : {false, true})
    for (BufferId id : evaluation.persistent(program)) {
      const Buffer& b = evaluation.buffer(id);
      if (b.alias_of.valid() != views) continue;
      if (views && !out[b.alias_of.index()].valid()) continue;  // of what a gather makes
      const auto it = by_name.find(key_of(evaluation, b));
      if (it == by_name.end()) return does_not_fit(evaluation, b, "training has none");
      const Buffer& lent = training.buffer(it->second);
      if (lent.dtype != b.dtype || !(lent.shape == b.shape))
        return does_not_fit(evaluation, b, "training has another type or shape");
      if (views != lent.alias_of.valid() || b.alias_offset != lent.alias_offset ||
          (views && out[b.alias_of.index()] != lent.alias_of))
        return does_not_fit(evaluation, b, "training has it at another place");
      if (!views) out[id.index()] = it->second;
    }
  return out;
}

}  // namespace tandem::exec
