// Times kernels of the catalogue through the same prepared calls that a run makes: see
// common/model/measurement.h for what is asked and answered, operands.h for the state of the
// caches.
//
//   A kernel at `busy` = b runs on b threads at once, each with operands of its own; every call is
//   timed as the interpreter times it (CPU clock of the thread around the call). The figure is the
//   median over the calls of all threads, after one untimed pass over the sets.
//   All kernels are gone through four times, so that a spell in which the machine is slow spoils
//   few samples of each and not all of one. The budget is shared out evenly; a kernel takes at
//   least two calls in each round whatever it costs.
#pragma once

#include <functional>

#include "common/base/result.h"
#include "common/model/measurement.h"

namespace tandem::exec {

// Called after each kernel of a round with the number done and of all; from the calling thread.
using MeasureProgress = std::function<void(int done, int all)>;

// Errors of prepare() (E-EXEC-035). Blocks for about `budget_s`; starts and ends its own threads.
[[nodiscard]] Result<MeasureResult> measure_kernels(const MeasureRequest& request,
                                                    const MeasureProgress& progress = {});

}  // namespace tandem::exec

extern "C" {
// The last two arguments: the request's file, and where the result goes. A line "done all" on
// stdout after each point. Returns an exit code; messages go to stderr. Opened with dlopen.
__attribute__((visibility("default"))) int tandem_calibrate_main(int argc, char** argv);
}
