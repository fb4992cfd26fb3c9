// Runs an order with integer costs and free communication, by the rules of schedules.md 1.2: the
// simple twin that the laws of the generators are tested against. Not the simulator.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "common/schedule/order.h"

namespace tandem {

struct StageCost {
  std::int64_t f = 1, i = 1, w = 1;  // B costs i + w
};

struct Replay {
  std::int64_t makespan = 0;
  std::vector<std::int64_t> busy;   // by rank
  std::vector<int> peak_w, peak_i;  // visits in flight, by rank
  bool ended = false;
};

inline Replay replay(const Order& order, const StageCost& cost) {
  Replay out;
  const std::size_t p = order.ranks.size();
  std::map<std::tuple<ActionKind, int, int>, std::int64_t> end;
  std::vector<std::size_t> next(p, 0);
  std::vector<std::int64_t> free_at(p, 0);
  out.busy.assign(p, 0);
  const auto time_of = [&](ActionKind k, int s, int mb) -> std::int64_t {
    const auto it = end.find({k, s, mb});
    return it == end.end() ? -1 : it->second;
  };
  const auto backward_of = [&](int s, int mb) {
    return std::max(time_of(ActionKind::B, s, mb), time_of(ActionKind::I, s, mb));
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t r = 0; r < p; ++r)
      while (next[r] < order.ranks[r].size()) {
        const Action& a = order.ranks[r][next[r]];
        std::int64_t ready = 0, length = 0;
        if (a.kind == ActionKind::F) {
          if (a.stage > 0) ready = time_of(ActionKind::F, a.stage - 1, a.microbatch);
          length = cost.f;
        } else if (a.kind == ActionKind::W) {
          ready = time_of(ActionKind::I, a.stage, a.microbatch);
          length = cost.w;
        } else {
          ready = time_of(ActionKind::F, a.stage, a.microbatch);
          if (a.stage + 1 < order.num_stages() && ready >= 0) {
            const std::int64_t other = backward_of(a.stage + 1, a.microbatch);
            ready = other < 0 ? -1 : std::max(ready, other);
          }
          length = a.kind == ActionKind::B ? cost.i + cost.w : cost.i;
        }
        if (ready < 0) break;
        free_at[r] = std::max(free_at[r], ready) + length;
        out.busy[r] += length;
        end[{a.kind, a.stage, a.microbatch}] = free_at[r];
        out.makespan = std::max(out.makespan, free_at[r]);
        ++next[r];
        moved = true;
      }
  }
  out.ended = true;
  for (std::size_t r = 0; r < p; ++r) out.ended = out.ended && next[r] == order.ranks[r].size();
  for (const RankOrder& list : order.ranks) {
    int live_w = 0, live_i = 0, peak_w = 0, peak_i = 0;
    for (const Action& a : list) {
      if (a.kind == ActionKind::F) ++live_w, ++live_i;
      peak_w = std::max(peak_w, live_w);
      peak_i = std::max(peak_i, live_i);
      if (a.kind == ActionKind::W || a.kind == ActionKind::B) --live_w;
      if (is_backward(a.kind)) --live_i;
    }
    out.peak_w.push_back(peak_w);
    out.peak_i.push_back(peak_i);
  }
  return out;
}

}  // namespace tandem
