// One builder an algorithm; step.h is what others include. Each file starts with its picture.
#pragma once

#include "common/collective/step.h"

namespace tandem::collective {

[[nodiscard]] MemberProgram ring(Collective collective, int n, int i, int root);
[[nodiscard]] MemberProgram tree(Collective collective, int n, int i, int root);
[[nodiscard]] MemberProgram halving_doubling(Collective collective, int n, int i);
[[nodiscard]] MemberProgram direct(Collective collective, int n, int i, int root);

// The whole buffer is sent through a tree or chain in so many chunks, one behind the other.
inline constexpr int kPipelineChunks = 8;

}  // namespace tandem::collective
