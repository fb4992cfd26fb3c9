// Measures this machine with the executor's own processes: kernels by `tandem __calibrate`, the
// transport and the host by executing probe plans (sim/calibrate/probe.h). What `calibrate` writes
// and `run` keeps in its cache.
#pragma once

#include <string>
#include <vector>

#include "common/model/calibration.h"
#include "common/model/measurement.h"
#include "tools/context.h"

namespace tandem::tools {

struct MachineRequest {
  CalibrationMachine machine;  // this_machine()
  PlanTypes types;
  std::string precision = "fp32";
  int threads_per_rank = 1;
  std::vector<MeasuredKernel> kernels;
  Bytes footprint = 16 << 20;    // of a rank's memory (measurement.h)
  double budget_s = 10;          // of the kernels; the probes take a few seconds on top
  std::vector<int> world_sizes;  // of runs whose wake-ups to measure
  std::vector<int> group_sizes;  // of collectives to measure
  bool messages = false;         // send and receive
  Bytes largest_message = 1 << 20;
};

// 1, 2, 4, ... ranks whose wake-ups matter for runs of up to `ranks`: at most one for each core.
[[nodiscard]] std::vector<int> worlds_to_measure(int ranks, int cores);

// Progress goes to the context's line. E-CAL-008: a measuring process failed; codes of
// execute_run().
[[nodiscard]] Result<Calibration> measure_machine(Context& context, const MachineRequest& request);

// Kernels alone, added to `calibration` (its fits are made anew).
[[nodiscard]] Status measure_kernels(Context& context, const MachineRequest& request,
                                     Calibration& calibration);

}  // namespace tandem::tools
