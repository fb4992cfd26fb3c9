// Mixture of experts as the oracle computes it (models.md 2.5 and 8a): which experts a token takes,
// what a limit of capacity drops, and the balance losses. Textbook code over all experts; nothing
// is sorted, packed or sent.
//
// Tokens come batch first: scores[b, S, E]. A token's row, by which ties are broken, is
// position * b + sequence, as everywhere else. Pure functions of their arguments; safe from any
// thread. Gradients flow through scores into weights and balance losses only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "common/scenario/scenario.h"

namespace tandem::exec {

// Scores of the router's logits: softmax over experts, or the sigmoid of each.
[[nodiscard]] at::Tensor router_scores(const at::Tensor& logits, const MoeSpec& moe);

// i64[b, S, K]: the K chosen experts, best first. `bias`[E] is added for the choice alone. Ties go
// to the lower index; experts outside the kept groups count as minus infinity.
[[nodiscard]] at::Tensor choose_experts(const at::Tensor& scores, const at::Tensor& bias,
                                        const MoeSpec& moe);

// [b, S, K]: what an expert's output is multiplied with; of the K chosen scores, without bias.
[[nodiscard]] at::Tensor routing_weights(const at::Tensor& scores, const at::Tensor& choice,
                                         const MoeSpec& moe);

// Slice of capacity a position belongs to, in [0, drop_groups): positions are cut in 2 cp chunks,
// part r of cp holds chunks r and 2 cp - 1 - r, and each part is cut in drop_groups / cp equal
// runs.
[[nodiscard]] std::vector<int> drop_slices(int sequence, int drop_groups, int cp);

// bool[b, S, K]: false where the assignment is dropped. Every expert takes
// max(1, ceil(capacity_factor * T * K / E)) rows of a slice of T tokens; the rest is dropped,
// lowest weight first, of equal weights the later row. All true without a capacity_factor.
[[nodiscard]] at::Tensor kept_assignments(const at::Tensor& choice, const at::Tensor& weights,
                                          const MoeSpec& moe, int cp);

// Sum over the scopes of one microbatch of expert_loss + device_loss, not yet divided by the number
// of scopes of the batch. Counts are those of `choice`, before any drop.
[[nodiscard]] at::Tensor balance_loss(const at::Tensor& scores, const at::Tensor& choice,
                                      const MoeSpec& moe);

// i64[E]: how often each expert was chosen.
[[nodiscard]] at::Tensor choice_counts(const at::Tensor& choice, const MoeSpec& moe);

// bias += rate * sign(mean(counts) - counts), by integers.
void update_router_bias(at::Tensor& bias, const std::vector<std::int64_t>& counts, double rate);

}  // namespace tandem::exec
