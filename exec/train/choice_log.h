// What the routers of a rank chose, token by token: taken behind `route_fwd` by the device, written
// to RUN/ranks/K.grads for --verify (rank_tensors.h), put together in run_choices.h. No LibTorch.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/ids.h"

namespace tandem::exec {

// One call of route_fwd; the op says layer, microbatch and slice.
struct RoutedTokens {
  OpId op;
  std::vector<std::int32_t> choice;  // [n,K], as the kernel's: -1 - expert where it was dropped
};

// Of the last step, or of all batches of the last evaluation, in the order in which they ran. The
// thread of the compute stream adds; read between steps.
struct ChoiceLog {
  std::vector<RoutedTokens> routed;
};

}  // namespace tandem::exec
