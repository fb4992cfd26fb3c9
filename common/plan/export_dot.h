// A plan as a graph for Graphviz (`dot -Tsvg`): a box an op, a frame a program, a frame inside it a
// stream. Not here: times; those are in a timeline.
//
//   Edges   dotted   the order of a stream
//           solid    a wait for another stream
//           bold     a message: from its send to its receive
//           dashed   ends of one collective in different programs (no arrow: all wait for all)
//   Fill    computing by phase in the colours of all our pictures (common/base/svg.h);
//           communications and what the host does are grey
#pragma once

#include <cstddef>
#include <string>

#include "common/plan/plan.h"

namespace tandem {

// Plans with more ops are no picture that a person can read, and take Graphviz minutes.
inline constexpr std::size_t kDotOps = 2000;

// Deterministic; ends with a line feed. Any plan that parses, of any size: who prints it keeps to
// kDotOps. Pure and thread-safe.
[[nodiscard]] std::string plan_dot(const Plan& plan);

}  // namespace tandem
