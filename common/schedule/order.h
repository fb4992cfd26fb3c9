// L1: who computes what, when. For each pipeline rank the list of actions in the order they run;
// nothing about communicators, buffers or time. Text form: text.h; picture: grid.h.
// A rank runs its list strictly in order; an action starts when its inputs are done:
//   F(s,i) needs F(s-1,i);  I or B(s,i) needs F(s,i) and I or B of (s+1,i);  W(s,i) needs I(s,i).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

enum class ActionKind : std::uint8_t { F, I, W, B, send_f, recv_f, send_b, recv_b, reduce_grad };

struct Action {
  ActionKind kind = ActionKind::F;
  std::int32_t stage = 0, microbatch = 0;  // reduce_grad has no microbatch: -1
  bool operator==(const Action&) const = default;
};

[[nodiscard]] constexpr Action forward(int stage, int mb) { return {ActionKind::F, stage, mb}; }
[[nodiscard]] constexpr Action backward(int stage, int mb) { return {ActionKind::B, stage, mb}; }
[[nodiscard]] constexpr bool is_compute(ActionKind k) { return k <= ActionKind::B; }
[[nodiscard]] constexpr bool is_backward(ActionKind k) {
  return k == ActionKind::I || k == ActionKind::B;
}

// --- messages: what lowering adds between the computing actions ---
[[nodiscard]] constexpr bool is_send(ActionKind k) {
  return k == ActionKind::send_f || k == ActionKind::send_b;
}
[[nodiscard]] constexpr bool is_recv(ActionKind k) {
  return k == ActionKind::recv_f || k == ActionKind::recv_b;
}
// Of a forward: an activation goes to the next stage. Else a gradient goes to the stage before.
[[nodiscard]] constexpr bool goes_forth(ActionKind message) {
  return message == ActionKind::send_f || message == ActionKind::recv_f;
}
// The stage at the other end of a message.
[[nodiscard]] constexpr int other_stage(const Action& message) {
  return message.stage + (goes_forth(message.kind) == is_send(message.kind) ? 1 : -1);
}
// Does `a` make the message (a send), or take it (a receive)?
[[nodiscard]] constexpr bool makes_or_takes(const Action& a, const Action& message) {
  return a.stage == message.stage && a.microbatch == message.microbatch &&
         (goes_forth(message.kind) ? a.kind == ActionKind::F : is_backward(a.kind));
}

using RankOrder = std::vector<Action>;

struct Order {
  int num_microbatches = 0;
  std::vector<int> stage_rank;   // pipeline rank of each stage
  std::vector<RankOrder> ranks;  // by pipeline rank
  [[nodiscard]] int num_ranks() const { return static_cast<int>(ranks.size()); }
  [[nodiscard]] int num_stages() const { return static_cast<int>(stage_rank.size()); }
  bool operator==(const Order&) const = default;
};

// What a generator is asked for.
struct PipelineShape {
  int num_ranks = 1, num_microbatches = 1, stages_per_rank = 1;
};

}  // namespace tandem
