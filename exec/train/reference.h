// The oracle: the same training run as one plain model in one process, by LibTorch's autograd. It
// shares no kernel with the executor, only names, initial values and batches. Used by tests and by
// `execute --verify`. The graph exists here and nowhere else.
//
// The run (batches, optimizer, clipping) is here, the models are in reference_models.h, experts in
// reference_moe.h. It takes the same microbatches (micro_batch sequences) and one divisor,
// global_batch * sequence, and always computes in fp64; in an fp32 run parameters start from values
// rounded to fp32, so what differs is the executor's rounding alone. In a bf16 run the model takes
// parameters rounded to bf16, as the run does; its activations are not rounded. Told what a run's
// routers chose, it compares that with its own choices and, but in fp64, takes it: replay.h.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/plan/training.h"
#include "exec/train/replay.h"

namespace tandem::exec {

struct FullTensor {
  std::int64_t rows = 0, columns = 1;
  std::vector<double> values;
};
using TensorMap = std::map<std::string, FullTensor>;

struct ReferenceStep {
  double loss = 0;          // cross-entropy
  double balance = 0;       // losses of the routers, all layers; the total is loss + balance
  double norm = 0, lr = 0;  // norm: before clipping
  TensorMap gradients;      // before clipping
  std::map<int, std::vector<std::int64_t>> choices;  // by MoE layer: how often each expert was
                                                     // chosen, before drops
  std::int64_t dropped = 0;                          // assignments beyond the capacity, all layers
  std::optional<double> evaluation_loss;  // of validation data after the update, where it is due
};

struct ReferenceRun {
  std::vector<ReferenceStep> steps;
  TensorMap parameters;                            // after the last update
  std::map<int, std::vector<double>> router_bias;  // by MoE layer, after the last update
  std::optional<ChoiceCheck> choices;              // where it was told of a run's
};

// config.warmup_steps + config.steps steps. `keep_gradients`: how many steps keep theirs. `run`:
// choices of all of these steps and their evaluations; null: the oracle is asked by itself.
[[nodiscard]] Result<ReferenceRun> run_reference(const TrainingConfig& config, int keep_gradients,
                                                 const RunChoices* run = nullptr);

// The buffer of a sigmoid router that is no parameter: "layers.N.moe.router_bias".
[[nodiscard]] std::string router_bias_name(int layer);

// Parameters that the run's model had behind a step, and biases of sigmoid routers, by name.
using StateBehind = std::function<Result<TensorMap>(int step)>;

// Judges the run's choices from where the run stood at each step: forwards by its parameters.
[[nodiscard]] Result<ChoiceCheck> judge_choices(const TrainingConfig& config, const RunChoices& run,
                                                const StateBehind& state);

}  // namespace tandem::exec
