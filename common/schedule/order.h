// L1: who computes what, when. For each pipeline rank the list of actions in the order they run;
// nothing about communicators, buffers or time. Text form: text.h; times: evaluate.h.
// A rank runs its list strictly in order; an action starts when its inputs are done:
//   F(s,i)       needs F(s-1,i)
//   I or B(s,i)  needs F(s,i) and I or B of (s+1,i)
//   W(s,i)       needs I(s,i)
//   slices j     F(s,i,j) needs F(s,i,j-1) too, I or B(s,i,j) the one of (s,i,j+1)
//   directions   each is a pipeline of its own (two copies of the model): none needs the other
//   fused cell   starts when the inputs of all its parts are done; all its outputs appear at its
//   end
// Source: schedules.md 1.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

enum class ActionKind : std::uint8_t {
  F,
  I,
  W,
  B,
  send_f,
  recv_f,
  send_b,
  recv_b,
  unshard,
  reshard,
  reduce_grad,
  idle  // an empty cell of a file: it takes a turn of the sweep and nothing else
};

struct Action {
  ActionKind kind = ActionKind::F;
  std::int32_t stage = 0, microbatch = 0;  // unshard, reshard, reduce_grad: microbatch -1
  std::int32_t slice = 0;
  std::int8_t dir = 0;  // which copy of the model, where there are two
  bool fused = false;   // in one cell with the action before it
  bool operator==(const Action&) const = default;
};

[[nodiscard]] constexpr Action forward(int stage, int mb) { return {ActionKind::F, stage, mb}; }
[[nodiscard]] constexpr Action backward(int stage, int mb) { return {ActionKind::B, stage, mb}; }
[[nodiscard]] constexpr bool is_compute(ActionKind k) { return k <= ActionKind::B; }
[[nodiscard]] constexpr bool is_backward(ActionKind k) {
  return k == ActionKind::I || k == ActionKind::B;
}
// Adds to the gradients of weights.
[[nodiscard]] constexpr bool is_weight(ActionKind k) {
  return k == ActionKind::W || k == ActionKind::B;
}
// Of a stage, not of one of its microbatches.
[[nodiscard]] constexpr bool is_of_stage(ActionKind k) {
  return k >= ActionKind::unshard && k <= ActionKind::reduce_grad;
}

// --- messages: what lowering adds between the computing actions ---
[[nodiscard]] constexpr bool is_send(ActionKind k) {
  return k == ActionKind::send_f || k == ActionKind::send_b;
}
[[nodiscard]] constexpr bool is_recv(ActionKind k) {
  return k == ActionKind::recv_f || k == ActionKind::recv_b;
}
[[nodiscard]] constexpr bool is_message(ActionKind k) { return is_send(k) || is_recv(k); }
// Of a forward: an activation goes to the next stage. Else a gradient goes to the stage before.
[[nodiscard]] constexpr bool goes_forth(ActionKind message) {
  return message == ActionKind::send_f || message == ActionKind::recv_f;
}
// The stage at the other end of a message.
[[nodiscard]] constexpr int other_stage(const Action& message) {
  return message.stage + (goes_forth(message.kind) == is_send(message.kind) ? 1 : -1);
}
// The same stage, microbatch, slice and copy of the model.
[[nodiscard]] constexpr bool same_visit(const Action& a, const Action& b) {
  return a.stage == b.stage && a.microbatch == b.microbatch && a.slice == b.slice && a.dir == b.dir;
}
// Does `a` make the message (a send), or take it (a receive)?
[[nodiscard]] constexpr bool makes_or_takes(const Action& a, const Action& message) {
  return same_visit(a, message) &&
         (goes_forth(message.kind) ? a.kind == ActionKind::F : is_backward(a.kind));
}

using RankOrder = std::vector<Action>;

// Behind the last action of the cell that begins at `i`.
[[nodiscard]] inline std::size_t end_of_cell(const RankOrder& list, std::size_t i) {
  ++i;
  while (i < list.size() && list[i].fused) ++i;
  return i;
}

struct Order {
  int num_microbatches = 0;  // of each direction
  int num_slices = 1, num_dirs = 1;
  std::vector<int> stage_rank;   // pipeline rank of each stage; of two copies: of the first
  std::vector<RankOrder> ranks;  // by pipeline rank
  [[nodiscard]] int num_ranks() const { return static_cast<int>(ranks.size()); }
  [[nodiscard]] int num_stages() const { return static_cast<int>(stage_rank.size()); }
  // Of both directions. Microbatch i of direction d reads sequences as number d * m + i of these.
  [[nodiscard]] int total_microbatches() const { return num_dirs * num_microbatches; }
  // The second copy lies the other way round (placement bidir).
  [[nodiscard]] int rank_of(int dir, int stage) const {
    const int rank = stage_rank[static_cast<std::size_t>(stage)];
    return dir == 0 ? rank : num_ranks() - 1 - rank;
  }
  [[nodiscard]] int rank_of(const Action& a) const { return rank_of(a.dir, a.stage); }
  [[nodiscard]] std::size_t num_visits() const {
    return static_cast<std::size_t>(num_dirs) * stage_rank.size() *
           static_cast<std::size_t>(num_microbatches) * static_cast<std::size_t>(num_slices);
  }
  // Dense index of a visit: stage, microbatch, slice and direction in range.
  [[nodiscard]] std::size_t visit(int dir, int stage, int mb, int slice) const {
    const auto z = [](int x) { return static_cast<std::size_t>(x); };
    return ((z(dir) * stage_rank.size() + z(stage)) * z(num_microbatches) + z(mb)) * z(num_slices) +
           z(slice);
  }
  [[nodiscard]] std::size_t visit(const Action& a) const {
    return visit(a.dir, a.stage, a.microbatch, a.slice);
  }
  bool operator==(const Order&) const = default;
};

// --- where stages lie (schedules.md 1.3) ---
[[nodiscard]] std::vector<int> loop_placement(int num_ranks, int stages_per_rank);  // s mod p
[[nodiscard]] std::vector<int> v_placement(int num_ranks, int stages_per_rank);     // zigzag
// "linear", "loop", "v", "bidir", or a list "[0,1,1,0]".
[[nodiscard]] std::string placement_name(const Order& order);

// Cost of one visit of a stage, without unit.
struct VisitCost {
  std::int64_t F = 1, I = 1, W = 1;
  bool operator==(const VisitCost&) const = default;
};

// What a generator is asked for.
struct PipelineShape {
  int num_ranks = 1, num_microbatches = 1;  // of both directions together
  int stages_per_rank = 0;                  // 0: what the kind needs
  std::vector<VisitCost> costs = {};        // by stage; empty: all 1. Only zb_greedy looks at them
  std::int64_t hop = 0;                     // from the end of an action to its reader elsewhere
};

}  // namespace tandem
