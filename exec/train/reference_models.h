// The models of models.md 2.2 by autograd, batch first, as a textbook writes them: part of the
// oracle (reference.h). Shares no kernel with the executor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/plan/training.h"
#include "exec/train/replay.h"

namespace tandem::exec {

using Parameters = std::map<std::string, at::Tensor>;  // by name, fp64

// What routers keep beside parameters. Choices and drops count until somebody clears them.
struct RouterState {
  std::map<int, at::Tensor> bias;                    // by layer, fp64[E]; buffers, start at 0
  std::map<int, std::vector<std::int64_t>> choices;  // by layer, of every expert; before drops
  std::int64_t dropped = 0;                          // assignments
  ChoiceReplay* replay = nullptr;                    // null: nothing to compare choices with
};

// Of one microbatch, divided by tokens and scopes of the whole batch: a step's value is the sum
// over its microbatches. Scalars, with their graph.
struct ReferenceLoss {
  at::Tensor cross_entropy, balance;
};

class ReferenceModel {
 public:
  virtual ~ReferenceModel() = default;
  // tokens i64[b, S+1], b = micro_batch: inputs are columns 0..S-1, labels 1..S.
  [[nodiscard]] virtual ReferenceLoss loss(const at::Tensor& tokens) = 0;
};

// Refers to all three as long as it lives. For one thread at a time.
[[nodiscard]] std::unique_ptr<ReferenceModel> make_reference_model(const TrainingConfig& config,
                                                                   Parameters& parameters,
                                                                   RouterState& routers);

}  // namespace tandem::exec
