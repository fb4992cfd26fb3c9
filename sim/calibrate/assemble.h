// From what was measured to a calibration, with the error on points that were held out. Pure.
#pragma once

#include "common/model/calibration.h"
#include "common/model/measurement.h"
#include "sim/calibrate/probe.h"

namespace tandem::sim {

// Kernel points and their fits: one for each kind, flags and mode with at least three points, for
// the highest number of busy cores.
void add_kernels(const MeasureResult& measured, PlanTypes types, Calibration& out);

// Curves, their fits, and the overheads. The CPU share of a curve is the median over its sizes,
// weighted by nothing.
void add_transports(const ProbeFigures& figures, Calibration& out);

}  // namespace tandem::sim
