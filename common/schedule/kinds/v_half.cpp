// V-Half and V-Min: two stages a rank on a V, in a repeating pattern of six slots a microbatch that
// holds a half or a third of 1F1B's memory.
//
//   On rank r, a = r, b = 2p-1-r. Types 0 F(a), 1 F(b), 2 I(b), 3 I(a); base slot t_y + 6 i:
//     v_min    t = r, 2p-1-r, 2p+d+r, 4p-1+d-r         d = 2 if 3 divides p, else 0
//     v_half   t = 2r, 3p-2-r, 3p-1+d+2r, 6p-2+d-r     d = 3 if p is even, else 0
//   W fill free slots. Then, twice: the ops before and behind the repeating body move to earlier
//   slots as far as inputs and the peak of memory allow; at last the slots are closed up.
//   Laws    m >= 2p, F = I = W = 1: bubble v_half 3p-7 (even p >= 4) or 3p-4 (odd p >= 3), v_min
//   4p-7
//           (3 divides p) or 4p-5    live 2 ((p+2) div 2), v_min 2 ((p+4) div 3) visits
//   Source  Qi et al., 2024 (arXiv 2405.15362); steps as in sail-sg/zero-bubble zbv_greedy.py;
//           schedules.md 2.10, 2.11.
#include <algorithm>
#include <array>
#include <map>
#include <tuple>

#include "common/schedule/evaluate.h"
#include "common/schedule/kinds/kinds.h"

namespace tandem {
namespace {

struct Op {
  int type, index;    // 4: the index-th W of its rank (or, at the end, of its class)
  bool of_b = false;  // a W of class b: of stage b
  auto operator<=>(const Op&) const = default;
};
using Slots = std::map<int, Op>;  // of one rank, in order

constexpr int kFa = 0, kFb = 1, kIb = 2, kIa = 3, kW = 4;

// A W for each I, in free slots behind it; `split`: of the class of its I, class b first.
void place_w(Slots& slots, bool split) {
  const int end = slots.rbegin()->first + 1;
  int pending_a = 0, pending_b = 0, next_a = 0, next_b = 0;
  const auto put = [&](int slot) {
    const bool b = pending_b > 0;
    --(b ? pending_b : pending_a);
    slots[slot] = split && b ? Op{kW, next_b++, true} : Op{kW, next_a++, false};
  };
  for (int slot = 0; slot < end; ++slot) {
    const auto at = slots.find(slot);
    if (at == slots.end()) {
      if (pending_a + pending_b > 0) put(slot);
    } else if (at->second.type == kIb && split) {
      ++pending_b;
    } else if (at->second.type == kIb || at->second.type == kIa) {
      ++pending_a;
    }
  }
  const int left = pending_a + pending_b;
  for (int k = 0; k < left; ++k) put(end + k);
}

// Visits held at once; without W a free slot pays for one I.
int peak_of(const Slots& slots, bool with_w) {
  int held = 0, peak = 0, unpaid = 0, expected = 0;
  for (const auto& [slot, op] : slots) {
    if (!with_w) {
      const int paid = std::min(unpaid, slot - expected);
      held -= paid;
      unpaid -= paid;
    }
    expected = slot + 1;
    if (op.type == kFa || op.type == kFb) peak = std::max(peak, ++held);
    if (op.type == kW) --held;
    if (op.type == kIa || op.type == kIb) ++unpaid;
  }
  return peak;
}

class Pattern {
 public:
  Pattern(int p, int m, std::vector<Slots> base) : p_(p), m_(m), slots_(std::move(base)) {}

  void reorder(bool with_w) {
    if (with_w)
      for (Slots& s : slots_) place_w(s, false);
    int cap = 0;
    for (const Slots& s : slots_) cap = std::max(cap, peak_of(s, with_w));
    std::vector<std::tuple<int, int, Op>> order;  // slot, rank, op
    for (int r = 0; r < p_; ++r)
      for (const auto& [slot, op] : at(r)) order.emplace_back(slot, r, op);
    std::sort(order.begin(), order.end());
    std::size_t body = 0;
    while (body < order.size() &&
           !(std::get<1>(order[body]) == 0 && std::get<2>(order[body]).type == kIa))
      ++body;
    std::size_t tail = body;
    while (tail < order.size() && std::get<2>(order[tail]) != Op{kFa, m_ - 1}) ++tail;
    tail = std::min(tail + 1, order.size());
    place_.clear();
    i_of_w_.assign(static_cast<std::size_t>(p_), {});
    for (const auto& [slot, r, op] : order)
      if (op.type == kIa || op.type == kIb) i_of_w_[static_cast<std::size_t>(r)].push_back(op);
    for (std::size_t k = 0; k < order.size(); ++k) {
      const auto& [slot, r, op] = order[k];
      const bool stays = (k >= body && k < tail) || (k < body && !with_w);
      place_[{r, op}] = stays ? slot : moved(r, op, slot, cap, with_w);
    }
    if (!with_w)
      for (Slots& s : slots_) place_w(s, false);
    squeeze();
    for (Slots& s : slots_) std::erase_if(s, [](const auto& e) { return e.second.type == kW; });
  }

  Order result(Order order) {
    for (int r = 0; r < p_; ++r) {
      Slots& slots = at(r);
      place_w(slots, true);
      for (const auto& [slot, op] : slots)
        order.ranks[static_cast<std::size_t>(r)].push_back(action(r, op));
    }
    return order;
  }

 private:
  [[nodiscard]] Slots& at(int r) { return slots_[static_cast<std::size_t>(r)]; }
  [[nodiscard]] Action action(int r, const Op& op) const {
    const int a = r, b = 2 * p_ - 1 - r;
    switch (op.type) {
      case kFa:
        return forward(a, op.index);
      case kFb:
        return forward(b, op.index);
      case kIb:
        return {ActionKind::I, b, op.index};
      case kIa:
        return {ActionKind::I, a, op.index};
      default:
        return {ActionKind::W, op.of_b ? b : a, op.index};
    }
  }

  // Where the op can go before its slot; it is moved there.
  int moved(int r, const Op& op, int own, int cap, bool with_w) {
    int low = 0;
    const auto behind = [&](int rank, const Op& o) {
      const auto it = place_.find({rank, o});
      if (it != place_.end()) low = std::max(low, it->second + 1);
    };
    if (op.type == kFa || op.type == kIb) behind(r - 1, op);
    if (op.type == kFb || op.type == kIa) behind(r + 1, op);
    if (op.type >= kFb && op.type <= kIa) behind(r, {op.type - 1, op.index});
    if (op.type == kW)
      behind(r, i_of_w_[static_cast<std::size_t>(r)][static_cast<std::size_t>(op.index)]);
    if (op.index > 0) behind(r, {op.type, op.index - 1});
    Slots& slots = at(r);
    for (int u = low; u < own; ++u) {
      if (slots.contains(u)) continue;  // those not visited yet stand behind `own`
      slots.erase(own);
      slots[u] = op;
      if (peak_of(slots, with_w) <= cap) return u;
      slots.erase(u);
      slots[own] = op;
    }
    return own;
  }

  // Each rank's order at the times it runs with all costs 1.
  void squeeze() {
    Order order;
    order.num_microbatches = m_;
    order.stage_rank = v_placement(p_, 2);
    for (int r = 0; r < p_; ++r) {
      RankOrder& list = order.ranks.emplace_back();
      std::vector<Action> issued;  // the n-th W belongs to the n-th I
      for (const auto& [slot, op] : at(r)) {
        Action a = action(r, op);
        if (op.type == kIa || op.type == kIb) issued.push_back(a);
        if (op.type == kW) {
          a = issued[static_cast<std::size_t>(op.index)];
          a.kind = ActionKind::W;
        }
        list.push_back(a);
      }
    }
    const ScheduleTimes times = *evaluate(order, {});
    for (int r = 0; r < p_; ++r) {
      Slots closed;
      std::size_t k = 0;
      for (const auto& [slot, op] : at(r))
        closed[static_cast<int>(times.actions[static_cast<std::size_t>(r)][k++].start)] = op;
      at(r) = std::move(closed);
    }
  }

  int p_, m_;
  std::vector<Slots> slots_;
  std::map<std::pair<int, Op>, int> place_;  // of ops that have been visited
  std::vector<std::vector<Op>> i_of_w_;      // by rank: I in the order of slots
};

Result<Order> v_pattern(const PipelineShape& shape, bool half) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  std::vector<Slots> base(static_cast<std::size_t>(p));
  for (int r = 0; r < p; ++r) {
    const int d = half ? (p % 2 == 0 ? 3 : 0) : (p % 3 == 0 ? 2 : 0);
    const std::array<int, 4> t =
        half ? std::array{2 * r, 3 * p - 2 - r, 3 * p - 1 + d + 2 * r, 6 * p - 2 + d - r}
             : std::array{r, 2 * p - 1 - r, 2 * p + d + r, 4 * p - 1 + d - r};
    for (int i = 0; i < m; ++i)
      for (int type = 0; type < 4; ++type)
        base[static_cast<std::size_t>(r)][t[static_cast<std::size_t>(type)] + 6 * i] = {type, i};
  }
  Pattern pattern(p, m, std::move(base));
  pattern.reorder(true);
  pattern.reorder(false);
  return pattern.result(empty_order(shape, v_placement(p, 2)));
}

}  // namespace

Result<Order> v_half(const PipelineShape& shape, const ScheduleOptions&) {
  return v_pattern(shape, true);
}

Result<Order> v_min(const PipelineShape& shape, const ScheduleOptions&) {
  return v_pattern(shape, false);
}

}  // namespace tandem
