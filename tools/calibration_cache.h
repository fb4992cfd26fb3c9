// Calibrations that `run` makes by itself: one file for each machine, executor build, number of
// ranks and precision, in the user's cache folder. What a plan needs and the file lacks is measured
// and added, so that a second run measures nothing.
#pragma once

#include <string>

#include "common/model/calibration.h"
#include "common/plan/plan.h"
#include "tools/context.h"

namespace tandem::tools {

struct CachedCalibration {
  std::string path, digest;
  Calibration calibration;
  int kernels_measured = 0;  // now; 0: all were there
  bool transport_measured = false;
  double wall_s = 0;  // spent on measuring
};

// $XDG_CACHE_HOME/tandem/calibrations, or .cache in $HOME.
[[nodiscard]] std::string calibrations_folder();

// The calibration for running this plan here. Kernels are measured with exactly the plan's
// dimensions, one by one; no step of the plan is run. `footprint`: memory of a rank.
[[nodiscard]] Result<CachedCalibration> calibration_for(Context& context, const Plan& plan,
                                                        const std::string& precision,
                                                        int threads_per_rank, Bytes footprint);

}  // namespace tandem::tools
