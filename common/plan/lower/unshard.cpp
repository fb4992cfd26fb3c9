// Step `unshard`, only for ZeRO-3 with residency `window`: whole stages are gathered ahead of their
// first use and kept while they are among the next n that the rank works on (schedules.md 4.2; the
// rule of torch.distributed.pipelining). With residency `visit` each visit gathers its layers
// (visit_zero.cpp), and this step adds nothing.
#include <algorithm>
#include <iterator>
#include <map>

#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

// Of a copy of the model.
using StageKey = std::pair<std::int32_t, std::int8_t>;
StageKey key_of(const Action& a) { return {a.stage, a.dir}; }

Action state(ActionKind kind, StageKey of) {
  Action a{kind, of.first, -1};
  a.dir = of.second;
  return a;
}

RankOrder unshard(const RankOrder& list, std::size_t window) {
  std::map<StageKey, std::vector<std::size_t>> places;  // of the actions of each stage, ascending
  std::vector<std::size_t> cell_end(list.size());
  for (std::size_t i = 0; i < list.size();) {
    const std::size_t end = end_of_cell(list, i);
    for (; i < end; ++i) {
      if (is_compute(list[i].kind)) places[key_of(list[i])].push_back(i);
      cell_end[i] = end;
    }
  }
  std::map<StageKey, std::size_t> next_place;  // index into `places`
  std::vector<StageKey> active;                // ascending
  RankOrder out;
  for (std::size_t i = 0; i < list.size(); i = cell_end[i]) {
    // The distinct stages from here on, in the order in which they come.
    std::vector<std::pair<std::size_t, StageKey>> coming;
    for (const auto& [stage, at] : places) {
      std::size_t& n = next_place[stage];
      while (n < at.size() && at[n] < i) ++n;
      if (n < at.size()) coming.emplace_back(at[n], stage);
    }
    std::sort(coming.begin(), coming.end());
    std::size_t count = std::min(window, coming.size());
    // All parts of a cell count together.
    while (count < coming.size() && coming[count].first < cell_end[coming[count - 1].first])
      ++count;
    coming.resize(count);
    const auto is_next = [&](StageKey s) {
      return std::any_of(coming.begin(), coming.end(),
                         [&](const auto& c) { return c.second == s; });
    };
    std::erase_if(active, [&](StageKey s) {
      if (is_next(s)) return false;
      out.push_back(state(ActionKind::reshard, s));
      return true;
    });
    for (const auto& [at, stage] : coming) {
      const auto place = std::lower_bound(active.begin(), active.end(), stage);
      if (place != active.end() && *place == stage) continue;
      active.insert(place, stage);
      out.push_back(state(ActionKind::unshard, stage));
    }
    std::copy(list.begin() + static_cast<std::ptrdiff_t>(i),
              list.begin() + static_cast<std::ptrdiff_t>(cell_end[i]), std::back_inserter(out));
  }
  for (StageKey s : active) out.push_back(state(ActionKind::reshard, s));
  return out;
}

}  // namespace

Order unshard(const Order& order, int window) {
  Order out = order;
  for (RankOrder& list : out.ranks) list = unshard(list, static_cast<std::size_t>(window));
  return out;
}

}  // namespace tandem::lower
