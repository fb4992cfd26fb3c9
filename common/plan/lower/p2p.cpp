// Step `p2p`: sends and receives, by the sender-driven sweep of schedules.md 4.4, and the place of
// receives by the policy of 4.5. Each SEND is followed at once by its RECV at the end of what the
// peer has so far; ranks take turns, one action each.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "common/plan/lower/draft.h"
#include "common/schedule/text.h"

namespace tandem::lower {
namespace {

struct Sweep {
  const Order& in;
  Order out;
  std::vector<std::uint8_t> done;  // by visit: bits of what stands in the output of its rank

  static constexpr std::uint8_t bit(ActionKind kind) {
    switch (kind) {
      case ActionKind::F:
        return 1;
      case ActionKind::I:
      case ActionKind::B:
        return 2;
      case ActionKind::recv_f:
        return 4;
      case ActionKind::recv_b:
        return 8;
      default:
        return 0;
    }
  }
  [[nodiscard]] bool has(ActionKind kind, int stage, const Action& of) const {
    return (done[in.visit(of.dir, stage, of.microbatch, of.slice)] & bit(kind)) != 0;
  }
  [[nodiscard]] bool ready(int rank, const Action& a) const {
    if (a.kind == ActionKind::F)
      return a.stage == 0 || has(ActionKind::recv_f, a.stage, a) ||
             (in.rank_of(a.dir, a.stage - 1) == rank && has(ActionKind::F, a.stage - 1, a));
    if (is_backward(a.kind))
      return a.stage == in.num_stages() - 1 || has(ActionKind::recv_b, a.stage, a) ||
             (in.rank_of(a.dir, a.stage + 1) == rank && has(ActionKind::B, a.stage + 1, a));
    return true;
  }
  void put(int rank, const Action& a) {
    out.ranks[static_cast<std::size_t>(rank)].push_back(a);
    if (!is_of_stage(a.kind)) done[in.visit(a)] |= bit(a.kind);
  }
  // The message that `a` makes, and its arrival.
  void send(int rank, const Action& a) {
    const bool forth = a.kind == ActionKind::F;
    if (!forth && !is_backward(a.kind)) return;
    const int to = forth ? a.stage + 1 : a.stage - 1;
    if (to < 0 || to >= in.num_stages() || in.rank_of(a.dir, to) == rank) return;
    Action message = a;
    message.fused = false;
    message.kind = forth ? ActionKind::send_f : ActionKind::send_b;
    put(rank, message);
    message.kind = forth ? ActionKind::recv_f : ActionKind::recv_b;
    message.stage = to;
    put(in.rank_of(a.dir, to), message);
  }
};

Error stuck(const Order& in, const std::vector<std::size_t>& at) {
  std::string heads;
  for (std::size_t r = 0; r < at.size(); ++r)
    if (at[r] < in.ranks[r].size())
      heads += fmt::format("{}rank {} waits at {}", heads.empty() ? "" : "; ", r,
                           to_text(in.ranks[r][at[r]]));
  return make_error(Failure::bad_input, "E-PLAN-002", "the order of the schedule cannot run", heads,
                    "an order in which every action's inputs come before it",
                    "mend the order; its first rows are\n" + grid(in, 0, static_cast<int>(at[0])));
}

// The rank at the other end of a message.
int peer_of(const Order& order, const Action& message) {
  return order.rank_of(message.dir, other_stage(message));
}

// Moves the waiting receives that `goes` accepts to the end of `out`, in their order.
template <class Goes>
void release(std::vector<Action>& waiting, RankOrder& out, Goes goes) {
  std::vector<Action> stay;
  for (const Action& r : waiting) (goes(r) ? out : stay).push_back(r);
  waiting = std::move(stay);
}

// deferred: a receive waits until just before its consumer, and then takes with it all earlier ones
// of the same directed edge. parity: it goes alone, and on the lower rank of a pair all receives
// from the peer go before a send to it.
RankOrder deferred(const Order& order, int rank, bool parity) {
  RankOrder out;
  std::vector<Action> waiting;  // in the order of the sweep
  const RankOrder& list = order.ranks[static_cast<std::size_t>(rank)];
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Action& a = list[i];
    if (is_recv(a.kind)) {
      waiting.push_back(a);
      continue;
    }
    // Of a cell all parts, before its first.
    for (std::size_t k = i; !a.fused && k < end_of_cell(list, i); ++k) {
      const auto mine = std::find_if(waiting.begin(), waiting.end(),
                                     [&](const Action& r) { return makes_or_takes(list[k], r); });
      if (mine == waiting.end()) continue;
      const Action needed = *mine;
      bool before = true;  // still at or before `needed`
      release(waiting, out, [&](const Action& r) {
        const bool goes =
            r == needed || (before && !parity && peer_of(order, r) == peer_of(order, needed));
        if (r == needed) before = false;
        return goes;
      });
    }
    if (parity && is_send(a.kind) && rank < peer_of(order, a))
      release(waiting, out,
              [&](const Action& r) { return peer_of(order, r) == peer_of(order, a); });
    out.push_back(a);
  }
  out.insert(out.end(), waiting.begin(), waiting.end());
  return out;
}

}  // namespace

Result<Order> p2p(const Order& order, Receive policy) {
  Sweep sweep{order, order, {}};
  const auto num_ranks = order.ranks.size();
  sweep.done.assign(order.num_visits(), 0);
  for (RankOrder& list : sweep.out.ranks) list.clear();
  std::vector<std::size_t> at(num_ranks, 0);
  for (bool progress = true; progress;) {
    progress = false;
    bool left = false;
    for (std::size_t r = 0; r < num_ranks; ++r) {
      if (at[r] == order.ranks[r].size()) continue;
      left = true;
      const RankOrder& list = order.ranks[r];
      const std::size_t begin = at[r], end = end_of_cell(list, begin);
      const int rank = static_cast<int>(r);
      bool ready = true;
      for (std::size_t i = begin; i < end; ++i) ready = ready && sweep.ready(rank, list[i]);
      if (!ready) continue;
      progress = true;
      at[r] = end;
      for (std::size_t i = begin; i < end; ++i) sweep.put(rank, list[i]);
      for (std::size_t i = begin; i < end; ++i) sweep.send(rank, list[i]);
    }
    if (left && !progress) return stuck(order, at);
  }
  if (policy != Receive::early) {
    const Order early = sweep.out;
    for (std::size_t r = 0; r < num_ranks; ++r)
      sweep.out.ranks[r] = deferred(early, static_cast<int>(r), policy == Receive::deferred_parity);
  }
  return sweep.out;
}

}  // namespace tandem::lower
