// FLOPs in closed form: of a step of the whole model (for MFU), and of each operation of a layer on
// one rank, forward, backward for inputs and backward for weights. What a plan really executes is
// summed from its kernels: common/plan/totals.h.
//
//   1 FLOP = one multiply or one add; a GEMM over n rows costs 2 n in out; I and W cost as much as
//   F each, except the attention core (I: 2F, W: none).
//     model FLOPs of a step = 3 (2 B S Pmm + L B 2 Q2 a (dqk+dv)),   Q2 = S(S+1)/2 causal pairs
//   Pmm: matrix_parameters_per_token(). No recomputation, no replicated work, V and not Vp.
//   With all S^2 pairs a gpt gives 72 B S L H^2 (1 + S/(6H) + V/(12HL)) of arXiv 2104.04473.
//   Executed differs: flash recomputes the scores in I (5 products of the core instead of 4),
//   a materialised core computes all S^2 pairs, the head computes Vp columns.
//   Source  models.md 2.7. Unit: FLOP, as double (exact below 2^53). Pure and thread-safe.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/model/parameters.h"
#include "common/scenario/scenario.h"

namespace tandem {

enum class Pairs : std::uint8_t { causal, all };  // of positions that attend: S(S+1)/2 or S^2

// Forward and backward of `sequences` sequences of length `sequence` through the whole model.
[[nodiscard]] double model_flops(const ModelShape& model, std::int64_t sequences,
                                 std::int64_t sequence, Pairs pairs = Pairs::causal);
// The numerator of MFU: all ranks together, one step.
[[nodiscard]] double model_flops_of_step(const Scenario& scenario);
// The usual estimate beside it: 6 FLOPs a token and parameter used.
[[nodiscard]] double six_n_flops(const ModelShape& model, std::int64_t sequences,
                                 std::int64_t sequence);

struct Work {
  double forward = 0, input = 0, weight = 0;
  [[nodiscard]] double sum() const { return forward + input + weight; }
};

// One operation of models.md 2.7 for one microbatch on one rank. Vector operations are bound by
// bytes and have no FLOPs.
struct OperationFlops {
  std::string_view name;  // "qkv", "core", "o", "fc1", "fc2" (others: "gate_up", "down"), "head"
  Work model, executed;
};
// The layer's operations in forward order; with experts balanced routing. Latents and the router
// run on the own tokens of a tensor rank; without sequence parallelism that is all of them, on
// each.
[[nodiscard]] std::vector<OperationFlops> layer_flops(const Scenario& scenario, int layer = 0);
// The head on one rank of the last stage.
[[nodiscard]] OperationFlops head_flops(const Scenario& scenario);
// Vocabulary rows of one tensor rank, padding included: Vp / t, or all where vocab_parallel is off.
[[nodiscard]] std::int64_t local_vocabulary(const Scenario& scenario);
// What recomputation executes a second time of a layer, which stands at `place` (0, 1, ...) of its
// stage; 0 without. Full: the forward without its last product (fc2, down), whose result no
// backward reads; selective: a materialised core.
[[nodiscard]] double again_flops(const Scenario& scenario, int layer, int place);
// Executed FLOPs of one rank of pipeline coordinate `pp`, one step.
[[nodiscard]] double executed_flops_of_rank(const Scenario& scenario, int pp);

}  // namespace tandem
