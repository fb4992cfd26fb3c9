// This machine, as calibrations name it.
#pragma once

#include <string>

#include "common/model/calibration.h"

namespace tandem::tools {

// CPU model, cores that this process may use, and the executor's library: LibTorch's version is
// part of its bytes, so its hash stands for both. `ranks`: processes that are going to run.
[[nodiscard]] Result<CalibrationMachine> this_machine(int ranks);

}  // namespace tandem::tools
