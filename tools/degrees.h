// The degrees of a mesh as all commands print them.
#pragma once

#include <fmt/format.h>

#include <string>

#include "common/parallel/mesh.h"

namespace tandem::tools {

// "tp 2, pp 1, dp 4"; cp stands behind tp where it is above 1.
[[nodiscard]] inline std::string degrees_text(const Mesh& mesh) {
  const int cp = mesh.of(Axis::cp);
  return fmt::format("tp {}, {}pp {}, dp {}", mesh.of(Axis::tp),
                     cp > 1 ? fmt::format("cp {}, ", cp) : "", mesh.of(Axis::pp),
                     mesh.of(Axis::dp));
}

}  // namespace tandem::tools
