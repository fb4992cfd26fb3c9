// Where the ranks of a run meet between steps, beside the plan's own communications: the BARRIER of
// the control plane (client.h). Tests have ones of their own.
#pragma once

#include "common/base/result.h"

namespace tandem::exec {

class Barrier {
 public:
  virtual ~Barrier() = default;
  // Returns when every rank of the run has called it as often as this one. One thread calls it.
  // E-EXEC-042 not all came within execute.timeout, E-EXEC-043 the run is being stopped.
  [[nodiscard]] virtual Status meet() = 0;
};

}  // namespace tandem::exec
