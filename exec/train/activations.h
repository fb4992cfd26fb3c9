// What a forward says of attention, the residual stream and routers (models.md 8.3, "on demand"):
// sums that ranks add, and what they mean. Taken by exec/kernels/probe.h in a pass of its own
// (Evaluator::look), so that no step and no evaluation is longer for it. No LibTorch.
#pragma once

#include <algorithm>
#include <limits>
#include <map>

namespace tandem::exec {

// Of one layer. Where ranks hold the same rows (tensor parallelism without SP) each adds them:
// means do not change.
struct ActivationSums {
  double max_logit = -std::numeric_limits<double>::infinity();  // of q k^T / sqrt(d), as masked
  double attention_rows = 0, attention_entropy = 0;    // rows: head and position; entropies, nats
  double residual_elements = 0, residual_squares = 0;  // of what enters the layer
  double routed_tokens = 0, router_entropy = 0;  // of a token's scores, made to sum to 1, nats
  ActivationSums& operator+=(const ActivationSums& other) {
    max_logit = std::max(max_logit, other.max_logit);
    attention_rows += other.attention_rows, attention_entropy += other.attention_entropy;
    residual_elements += other.residual_elements, residual_squares += other.residual_squares;
    routed_tokens += other.routed_tokens, router_entropy += other.router_entropy;
    return *this;
  }
};
using Activations = std::map<int, ActivationSums>;  // by layer

// Asked of a device while `on`; the thread of its compute stream adds.
struct ActivationProbe {
  bool on = false;
  Activations sums;
};

}  // namespace tandem::exec
