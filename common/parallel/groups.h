// The mesh of a scenario, its named groups of ranks, and which of them sums the gradient of which
// parameter. Pure and thread-safe.
//
//   megatron     tp cp dp pp; dp_cp, tp_cp, stage = (tp, cp, dp); etp ep edp by the second grid
//   nano_train   cp ep tp pp dp, rank = ((((dp p + pp) t + tp) e + ep) c + cp); edp = (tp, dp),
//                dp_ep, stage = (ep, tp, dp)
//   Gradients    class            megatron                    nano_train split   replicate
//                tp-cut           dp_cp                       dp_ep              dp
//                whole            stage with SP, else dp_cp   dp_ep              dp
//                router           stage with SP, else dp_cp   stage              edp
//                routed expert    edp                         edp                edp, divided by e
//   Source  models.md 3.1, 3.2 and 4.8. Tests: tests/common/parallel/.
#pragma once

#include <string_view>
#include <vector>

#include "common/model/parameters.h"
#include "common/parallel/mesh.h"
#include "common/scenario/scenario.h"

namespace tandem {

[[nodiscard]] Mesh mesh_of(const Scenario& scenario);

struct NamedGroup {
  std::string_view name;  // "dp_cp"
  AxisSet axes;
};
// Every group that communicates, in the order of a plan's table; groups of one member too.
[[nodiscard]] std::vector<NamedGroup> named_groups(const Scenario& scenario);

// The group that sums the gradients of a class of parameters, and the tag of that (models.md 4.1).
struct ReducingGroup {
  NamedGroup group;
  std::string_view tag;  // grad.dp, grad.stage, grad.exp
};
[[nodiscard]] ReducingGroup reducing_group(const Scenario& scenario, TensorClass cls);

// Each microbatch scatters its gradients (ZeRO levels 2 and 3; models.md 10).
[[nodiscard]] inline bool scatters_every(const Scenario& s) {
  const ParallelSpec& p = s.parallel;
  const bool automatic = p.zero_reduce == ZeroReduce::automatic && p.style != Style::nano_train;
  return p.zero >= 2 && (p.zero_reduce == ZeroReduce::every || automatic);
}

// Sequence parallelism is on and cuts something.
[[nodiscard]] inline bool cuts_sequence(const Scenario& s) {
  return s.parallel.sequence_parallel && s.parallel.tp > 1;
}

}  // namespace tandem
