// Times of an order by brute force: start times grow until nothing changes any more (schedules.md
// 1.2). Slow and simple: the twin that common/schedule/evaluate.h is tested against.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/schedule/evaluate.h"

namespace tandem {

struct Replay {
  std::vector<std::vector<std::int64_t>> start, end;  // as the order's actions
  std::int64_t makespan = 0;
  bool ended = true;  // false: times grow without bound, or an input is missing
};

inline Replay replay(const Order& order, const ScheduleCosts& costs) {
  Replay out;
  struct At {
    std::size_t rank, pos;
  };
  std::vector<At> all;
  for (std::size_t r = 0; r < order.ranks.size(); ++r) {
    out.start.emplace_back(order.ranks[r].size(), 0);
    out.end.emplace_back(order.ranks[r].size(), 0);
    for (std::size_t i = 0; i < order.ranks[r].size(); ++i) all.push_back({r, i});
  }
  const auto action = [&](At a) -> const Action& { return order.ranks[a.rank][a.pos]; };
  const auto cell = [&](At a) {  // its first and behind its last action
    std::size_t begin = a.pos, end = a.pos + 1;
    while (action({a.rank, begin}).fused) --begin;
    while (end < order.ranks[a.rank].size() && action({a.rank, end}).fused) ++end;
    return std::pair{begin, end};
  };
  const auto needs = [&](const Action& a, const Action& b) {  // does a need b?
    if (a.dir != b.dir || a.microbatch != b.microbatch) return false;
    const bool back = is_backward(b.kind);
    if (a.kind == ActionKind::F)
      return b.kind == ActionKind::F && ((b.stage == a.stage - 1 && b.slice == a.slice) ||
                                         (b.stage == a.stage && b.slice == a.slice - 1));
    if (a.kind == ActionKind::W) return back && same_visit(a, b);
    return (b.kind == ActionKind::F && same_visit(a, b)) ||
           (back && b.stage == a.stage + 1 && b.slice == a.slice) ||
           (back && b.stage == a.stage && b.slice == a.slice + 1);
  };
  const auto grow = [&](std::int64_t& x, std::int64_t to) {
    if (to <= x) return false;
    x = to;
    return true;
  };
  const std::size_t rounds = all.size() + 2;
  bool moved = true;
  for (std::size_t round = 0; moved; ++round) {
    if (round > rounds) {
      out.ended = false;
      return out;
    }
    moved = false;
    for (const At a : all) {
      const auto [begin, end] = cell(a);
      std::int64_t cost = 0;
      for (std::size_t i = begin; i < end; ++i) cost += costs.of(action({a.rank, i}));
      if (end - begin > 1 && costs.cell) cost = *costs.cell;
      std::int64_t& start = out.start[a.rank][a.pos];
      if (begin > 0) moved |= grow(start, out.end[a.rank][begin - 1]);
      for (const At b : all)
        for (std::size_t i = begin; i < end; ++i)
          if (needs(action({a.rank, i}), action(b)))
            moved |= grow(start, out.end[b.rank][b.pos] + (b.rank == a.rank ? 0 : costs.hop));
      moved |= grow(out.end[a.rank][a.pos], start + cost);
    }
  }
  for (const auto& list : out.end)
    for (std::int64_t e : list) out.makespan = std::max(out.makespan, e);
  return out;
}

}  // namespace tandem
