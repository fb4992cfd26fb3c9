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
  const std::vector<BufferId> roots = roots_of(d.plan);
  std::vector<std::int32_t> first(d.plan.buffers.size(), kNever), last(first);
  const std::vector<char> lives = live_for_the_run(d.plan);
  // (op, buffer), by op: of receives behind it; freed behind their last use.
  using Moved = std::vector<std::pair<std::int32_t, BufferId>>;
  std::vector<BufferId> begin, end;
  for (std::size_t p = 0; p < d.programs.size(); ++p) {
    std::vector<Op>& ops = d.programs[p];
    const ProgramId program{static_cast<std::int64_t>(p)};
    for (std::size_t i = 0; i < ops.size(); ++i)
      for_each_root_use(d.plan, roots, ops[i], [&](BufferId id, Use) {
        if (first[id.index()] == kNever) first[id.index()] = static_cast<std::int32_t>(i);
        last[id.index()] = static_cast<std::int32_t>(i);
      });
    Moved early, late;
    if (d.scenario.schedule.receive != Receive::early)
      for (std::size_t i = 0; i < ops.size(); ++i) {
        std::size_t at = i;
        while (at > 0 && is_p2p(ops[at].kind)) --at;
        const BufferId id = ops[i].buffer;
        if (ops[i].kind != OpKind::recv || is_p2p(ops[at].kind) ||
            first[id.index()] != static_cast<std::int32_t>(i))
          continue;
        first[id.index()] = kNever;
        early.emplace_back(static_cast<std::int32_t>(at), id);
      }
    for (const auto& [id, op] : d.freed_by) {
      if (first[id.index()] == kNever || d.plan.buffer(id).program != program) continue;
      last[id.index()] = kNever;
      late.emplace_back(op, id);
    }
    std::sort(early.begin(), early.end());
    std::sort(late.begin(), late.end());
    auto next_early = early.begin();
    auto next_late = late.begin();
    for (std::size_t op = 0; op < ops.size(); ++op) {
      const auto i = static_cast<std::int32_t>(op);
      begin.clear(), end.clear();
      for (; next_early != early.end() && next_early->first == i; ++next_early)
        begin.push_back(next_early->second);
      for (; next_late != late.end() && next_late->first == i; ++next_late)
        end.push_back(next_late->second);
      for_each_root_use(d.plan, roots, ops[op], [&](BufferId id, Use) {
        if (lives[id.index()]) return;
        if (first[id.index()] == i) begin.push_back(id);
        if (last[id.index()] == i) end.push_back(id);
      });
      for (std::vector<BufferId>* list : {&begin, &end}) {
        std::sort(list->begin(), list->end());
        list->erase(std::unique(list->begin(), list->end()), list->end());
      }
      ops[op].allocates = d.refs(begin);
      ops[op].frees = d.refs(end);
    }
  }
}

}  // namespace tandem::lower
