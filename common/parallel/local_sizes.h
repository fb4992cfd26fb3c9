// Sizes of one rank in the symbols of models.md 1, and which layers it holds, for the closed forms
// of memory.h: only memory.cpp, which defines them, and transient.cpp include it.
#pragma once

#include <cstdint>
#include <vector>

#include "common/scenario/scenario.h"

namespace tandem::memory {

using I = std::int64_t;

// S: positions of a cp rank, or of one of k slices; qkv: width of q, k and v together, kv: of k and
// v, ins: width of what enters the activation of the MLP (fc1, or gate and up), stat: values a norm
// keeps for a token.
struct Symbols {
  I t, c, k, b, S, n, H, a, ad, qkv, kv, F, ins, stat, w, s, n1,
      nm;  // nm: tokens that the rank routes
  bool gpt, sp, flash;
  // latents (0: none); experts
  I rq, rkv, dn, dr, dv;
  I E, K, e, local, Fe, shared, rows, assignments, scopes;
};
[[nodiscard]] Symbols symbols(const Scenario& scenario);

// What attention keeps beside q, k and v: the log-sum-exp of each row, or all probabilities.
[[nodiscard]] inline I core_stash(const Symbols& x) {
  return x.flash ? x.s * x.b * x.a * x.S : x.w * x.b * x.a * x.S * x.S;
}

// Of the whole pipeline; and whether one lies on the rank.
[[nodiscard]] int stages(const Scenario& scenario);
[[nodiscard]] bool holds(const Scenario& scenario, int stage, int pp);
[[nodiscard]] bool has_experts(const Scenario& scenario, int layer);
[[nodiscard]] bool holds_first(const Scenario& scenario, int pp);
[[nodiscard]] bool holds_last(const Scenario& scenario, int pp);

// Layers of the rank, stage by stage, each with its place in the stage.
struct StageLayer {
  int layer, place, stage;
};
[[nodiscard]] std::vector<StageLayer> layers_of(const Scenario& scenario, int pp);

// Whether routers have a loss that balances their choices, and what a layer keeps for it.
[[nodiscard]] inline bool has_balance_loss(const Scenario& s) {
  return s.model.moe.expert_loss > 0 || s.model.moe.device_loss > 0;
}
[[nodiscard]] I balance_statistics(const Scenario& scenario, const Symbols& x);

// Tokens whose logits the rank makes: its own ones where SP is on and the vocabulary is not cut.
[[nodiscard]] I head_tokens(const Scenario& scenario, const Symbols& x);

}  // namespace tandem::memory
