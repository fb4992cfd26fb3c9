// Step `buffers`: an op allocates what it is the first to use in issue order, and frees what it is
// the last to use, or (blocks of a ring) what step `streams` leaves to it. Parameters, main
// gradients and optimizer state live for the run. A deferred receive stands behind sends that free:
// the host would issue it, if it allocated, only when those have ended, and two ranks would wait
// for each other (verification's V6.m). So its buffer comes with the last op before the messages
// around it.
#include <algorithm>

#include "common/plan/lower/draft.h"
#include "common/plan/uses.h"

namespace tandem::lower {

void buffers(Draft& d) {
  constexpr std::int32_t kNever = -1;
  std::vector<std::int32_t> first(d.plan.buffers.size(), kNever), last(first);
  for (std::size_t p = 0; p < d.programs.size(); ++p) {
    std::vector<Op>& ops = d.programs[p];
    const ProgramId program{static_cast<std::int64_t>(p)};
    for (std::size_t i = 0; i < ops.size(); ++i)
      for_each_root_use(d.plan, ops[i], [&](BufferId id, Use) {
        if (first[id.index()] == kNever) first[id.index()] = static_cast<std::int32_t>(i);
        last[id.index()] = static_cast<std::int32_t>(i);
      });
    std::vector<std::vector<BufferId>> early(ops.size());  // of receives behind op i
    if (d.scenario.schedule.receive != Receive::early)
      for (std::size_t i = 0; i < ops.size(); ++i) {
        std::size_t at = i;
        while (at > 0 && is_p2p(ops[at].kind)) --at;
        const BufferId id = ops[i].buffer;
        if (ops[i].kind != OpKind::recv || is_p2p(ops[at].kind) ||
            first[id.index()] != static_cast<std::int32_t>(i))
          continue;
        first[id.index()] = kNever;
        early[at].push_back(id);
      }
    std::vector<std::vector<BufferId>> late(ops.size());  // freed behind their last use, by op
    for (const auto& [id, op] : d.freed_by) {
      if (first[id.index()] == kNever || d.plan.buffer(id).program != program) continue;
      last[id.index()] = kNever;
      late[static_cast<std::size_t>(op)].push_back(id);
    }
    std::vector<BufferId> begin, end;
    for (std::size_t i = 0; i < ops.size(); ++i) {
      begin = early[i];
      end = late[i];
      for_each_root_use(d.plan, ops[i], [&](BufferId id, Use) {
        if (lives_for_the_run(d.plan.buffer(id).cls)) return;
        if (first[id.index()] == static_cast<std::int32_t>(i)) begin.push_back(id);
        if (last[id.index()] == static_cast<std::int32_t>(i)) end.push_back(id);
      });
      for (std::vector<BufferId>* list : {&begin, &end}) {
        std::sort(list->begin(), list->end());
        list->erase(std::unique(list->begin(), list->end()), list->end());
      }
      ops[i].allocates = d.refs(begin);
      ops[i].frees = d.refs(end);
    }
  }
}

}  // namespace tandem::lower
