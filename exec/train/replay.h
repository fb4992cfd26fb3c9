// Router replay: how the oracle treats the experts that a run chose (docs/decisions.md D-041).
//
//   fp64        strict: the oracle goes its own way, and any other choice of the run is an error
//   fp32, bf16  replay: the oracle takes the run's choices, so that both compute the same function
//               and losses and gradients compare like with like. For this every choice must be
//               right:
//               near_tie: by the parameters that the run had at that step, so that scores differ by
//               the rounding of one forward alone, the gap of the scores (near_tie.h) relative to
//               the token's largest is at most allowed_gap()
//   drops       the same for what a limit of capacity drops: each expert must keep as many
//               assignments as the oracle; where it keeps others, the gap is that of the weights
//
// The gap of a choice does not hang on earlier ones: what the run chose before is in place.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "common/plan/training.h"
#include "exec/train/run_choices.h"

namespace tandem::exec {

enum class ChoiceRule { strict, replay, near_tie };

// Of one pass over all steps and evaluations.
struct ChoiceCheck {
  std::int64_t routings = 0;  // of one token by one layer
  std::int64_t differed = 0;  // to other experts, or with others dropped
  double largest_gap = 0;     // of these, relative; infinite: no scores make the choice
  std::string largest;        // that one, in words
  std::int64_t wrong = 0;     // those that the rule does not allow
};

// How far apart the run's score and the oracle's can be by rounding in one forward, twice, relative
// to the token's largest score: a bound with room, for what was measured see D-041. 0 in fp64.
[[nodiscard]] double allowed_gap(const TrainingConfig& config);

// For one pass of the oracle. `config` and `run` outlive it.
class ChoiceReplay {
 public:
  ChoiceReplay(const TrainingConfig& config, const RunChoices& run, ChoiceRule rule)
      : c_(config), run_(run), rule_(rule) {}

  // The microbatch that follows; `layer` is set by the calls below.
  void at(RoutingPlace place) { place_ = place; }

  // i64[b, S, K] to go on with, in place of the oracle's `own`; `scores`[b, S, E] with the bias.
  [[nodiscard]] at::Tensor choice(int layer, const at::Tensor& scores, const at::Tensor& own);
  // bool[b, S, K], in place of `own`; for the choice that the call above returned.
  [[nodiscard]] at::Tensor kept(int layer, const at::Tensor& choice, const at::Tensor& weights,
                                const at::Tensor& own);

  [[nodiscard]] const ChoiceCheck& seen() const { return seen_; }

 private:
  void note(std::int64_t token, double gap, const std::string& what);
  const TrainingConfig& c_;
  const RunChoices& run_;
  const ChoiceRule rule_;
  RoutingPlace place_;
  ChoiceCheck seen_;
};

}  // namespace tandem::exec
